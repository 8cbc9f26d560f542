"A teacher's embeddings that were cut short are refused, by a message that says what to do"
import json
from contextlib import suppress
import numpy as np, pyarrow as pa, pyarrow.ipc as ipc, pytest
from bilingual_embed.data.teacher import TeacherError, TeacherProjection, TeacherRows, embed_with_teacher, open_teacher_rows

TEXTS = [['One','en'], ['Zwei','de'], ['Drei\nvier','de'], 'five', ['Größe','de']]

@pytest.fixture
def rows_folder(tmp_path):
    "Five texts as JSON Lines and as an Arrow file, and their embeddings"
    x = np.random.default_rng(0).normal(size=(5,8)).astype(np.float16)
    np.save(tmp_path/'v.npy', x)
    (tmp_path/'t.jsonl').write_text(''.join(json.dumps(t, ensure_ascii=False)+'\n' for t in TEXTS), encoding='utf-8')
    table = pa.table(dict(text=[t if isinstance(t, str) else t[0] for t in TEXTS]))
    with ipc.new_file(str(tmp_path/'t.arrow'), table.schema) as w: w.write_table(table)
    return tmp_path

@pytest.mark.parametrize('name,size,words', [('t.jsonl', -1, 'middle of a line'), ('t.jsonl', 14, '1 texts and 5 vectors'),
                                             ('v.npy', -2, 'cut short'), ('v.npy', 20, 'cut short'), ('v.npy', 0, 'cut short'),
                                             ('t.arrow', 40, 'not a whole Arrow file')])
def test_a_file_cut_short_is_refused(rows_folder, name, size, words):
    p = rows_folder/name
    p.write_bytes(p.read_bytes()[:size])
    texts = name if name.startswith('t.') else 't.jsonl'
    with pytest.raises(TeacherError, match=words): TeacherRows(rows_folder/texts, rows_folder/'v.npy', 'en')

@pytest.mark.parametrize('line', ['{"x": 1}', '[]', '5'])
def test_a_line_of_another_shape_is_refused(rows_folder, line):
    (rows_folder/'t.jsonl').write_text(5*f'{line}\n')
    rows = TeacherRows(rows_folder/'t.jsonl', rows_folder/'v.npy', 'en')
    with pytest.raises(TeacherError, match='line 3 is neither a text'): rows[2]

def test_what_is_no_matrix_is_refused():
    with pytest.raises(TeacherError, match='a row of float16'): TeacherRows(['a'], np.ones(3))

class Toy:
    name,revision = 'toy','1'
    def __init__(self, stop=10**9): self.n,self.stop = 0,stop
    def encode(self, texts):
        self.n += len(texts)
        if self.n > self.stop: raise KeyboardInterrupt
        return np.stack([np.random.default_rng(list(t.encode())).normal(size=16) for t in texts])

@pytest.mark.parametrize('stop', [9, 10**9])
def test_embeddings_cut_short_are_refused(tmp_path, stop):
    texts = [(f'house {i}', 'en') for i in range(20)]
    with suppress(KeyboardInterrupt): embed_with_teacher(texts, Toy(stop), tmp_path, 6)
    p = tmp_path/'vectors.npy'
    p.write_bytes(p.read_bytes()[:-8])
    again = (lambda: embed_with_teacher(texts, Toy(), tmp_path)) if stop == 9 else (lambda: open_teacher_rows(tmp_path))
    with pytest.raises(TeacherError, match='cut short'): again()

def test_a_projection_cut_short_is_refused(tmp_path):
    p = tmp_path/'projection.safetensors'
    TeacherProjection(np.eye(4, dtype=np.float32), 'toy', '1').save(p)
    p.write_bytes(p.read_bytes()[:99])
    with pytest.raises(TeacherError, match='not a whole teacher projection'): TeacherProjection.load(p)
