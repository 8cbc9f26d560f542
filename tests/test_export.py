"Exports: places that cannot be written, parameters that make no sense"
import os, pytest
from bilingual_embed.inference.export import export_onnx, export_published

EXPORTS = export_onnx,export_published

@pytest.mark.parametrize('export', EXPORTS)
def test_places_that_cannot_be_a_folder(model_folder, tmp_path, export):
    (tmp_path/'taken').write_text('mine')
    places = [tmp_path/'taken', tmp_path/'taken'/'below', tmp_path/('x'*300), tmp_path/'a\0b']
    if hasattr(os, 'symlink'):
        (tmp_path/'ring').symlink_to('ring')
        places.append(tmp_path/'ring')
    for place in places:
        with pytest.raises(ValueError, match='cannot be a folder to write into'): export(model_folder, place)
    assert (tmp_path/'taken').read_text() == 'mine'

@pytest.mark.parametrize('queries', [-1, 1.5, '8', None, True, 2**31])
def test_queries_is_a_whole_number(model_folder, tmp_path, queries):
    with pytest.raises(ValueError, match='queries must be a whole number from 0 to 2147483647'):
        export_onnx(model_folder, tmp_path/'never', queries=queries)
    assert not (tmp_path/'never').exists()
