"""Packaging: every value comes from settings.ini (nbdev's configuration), none is repeated here."""
import shlex
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lib = cfg['lib_path']
extras = {k: shlex.split(cfg[f'{k}_requirements']) for k in ('train', 'files', 'onnx', 'search', 'peers', 'dev')}
extras['dev'] += extras['train'] + extras['onnx']                 # whoever edits a room runs every room
models = here/'data'/'models'                                     # installed beside the code, as bilingual_embed/models

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'], url=cfg['git_url'],
    license={'apache2': 'Apache-2.0', 'mit': 'MIT'}.get(cfg['license'], cfg['license']),
    long_description=(here/'README.md').read_text(encoding='utf-8') if (here/'README.md').exists() else '',
    long_description_content_type='text/markdown',
    packages=find_packages(include=[lib, f'{lib}.*']) + [f'{lib}.models']*models.is_dir(), package_dir={f'{lib}.models': 'data/models'} if models.is_dir() else {}, include_package_data=True,
    package_data={lib: cfg.get('package_data', '').split(), f'{lib}.models': [str(p.relative_to(models)) for p in models.rglob('*') if p.is_file()]},
    python_requires='>='+cfg['min_python'],
    install_requires=shlex.split(cfg['requirements']), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    zip_safe=False)
