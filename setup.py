"Packaging: every value comes from settings.ini (nbdev's configuration), none is repeated here"
import shlex
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lib = cfg['lib_path']

EXTRAS = 'train', 'files', 'onnx', 'index', 'search', 'peers', 'cluster', 'dev'
extras = {k: shlex.split(cfg[f'{k}_requirements']) for k in EXTRAS}
for k in ('train', 'onnx', 'index', 'cluster'): extras['dev'] += extras[k]   # whoever edits a notebook runs every notebook
extras['cluster'] += extras['train']              # the rules of cleaning are the same on one machine and on many

packages = find_packages(include=[lib, f'{lib}.*'])
package_dir = {}
package_data = {lib: ['py.typed']}
models = here/'data'/'models'                            # installed beside the code, as bilingual_embed/models
if models.is_dir():
    packages.append(f'{lib}.models')
    package_dir[f'{lib}.models'] = 'data/models'
    package_data[f'{lib}.models'] = [str(p.relative_to(models)) for p in models.rglob('*') if p.is_file()]

readme = here/'README.md'
setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'],
    keywords=cfg['keywords'],
    license={'apache2': 'Apache-2.0'}[cfg['license']],
    license_files=['LICENSE'],
    packages=packages,
    package_dir=package_dir,
    package_data=package_data,
    include_package_data=True,
    python_requires='>=' + cfg['min_python'],
    install_requires=shlex.split(cfg['requirements']),
    extras_require=extras,
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=[f'{lib}={lib}._modidx:d']),
    zip_safe=False)
