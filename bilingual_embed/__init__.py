"""Bilingual text embeddings of up to 8192 tokens.

    import bilingual_embed
    vectors = bilingual_embed.load('runs/cpu-en-de-42').encode(['Good morning', 'Guten Morgen'])   # (2,D) float32, unit rows

Importing it makes JinaBERT known to transformers and sentence-transformers, so that they open our folders too, offline and without remote code.
`load` reads jina-embeddings-v2 folders as well; `convert` writes one again for transformers and sentence-transformers.
"""
__version__ = "0.1.0"
__all__ = ['load', 'Embedder', 'convert']

import warnings
warnings.filterwarnings('ignore', message='IProgress not found')   # tqdm's, in every notebook without ipywidgets
from .model import jina_bert                            # registers the architecture

def __getattr__(name): # the other packages are imported when they are used
    if name == 'convert':
        from .inference.sentence_transformers import convert
        return convert
    if name in __all__:
        from .inference import embed
        return getattr(embed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

def __dir__(): return sorted({*globals(), *__all__})
