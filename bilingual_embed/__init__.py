"""Bilingual text embeddings of up to 8192 tokens.

    import bilingual_embed
    vectors = bilingual_embed.load('en-de').encode(['Good morning', 'Guten Morgen'])   # (2,D) float32, unit rows

Importing it registers JinaBERT with transformers and sentence-transformers, so that they open the library's folders
too, offline and without remote code. `load` also reads jina-embeddings-v2 folders; `convert` writes one again for both.
"""
__version__ = "0.1.0"
__all__ = ['load', 'Embedder', 'convert', 'model_folder']

import warnings
warnings.filterwarnings('ignore', message='IProgress not found')   # tqdm's, in every notebook without ipywidgets
from .model import jina_bert as jina_bert   # registers the architecture

def __getattr__(name): # the other packages are imported when they are used
    if name == 'convert':
        from .inference.sentence_transformers import convert
        return convert
    if name in __all__:
        from .inference import embed
        return getattr(embed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

def __dir__(): return sorted({*globals(), *__all__})
