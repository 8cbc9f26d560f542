"""Bilingual text embeddings of up to 8192 tokens.

    import bilingual_embed
    vectors = bilingual_embed.load('runs/cpu-en-de-42').encode(['Good morning', 'Guten Morgen'])   # (2,D) float32, unit rows
"""
__version__ = "0.1.0"
__all__ = ['load', 'Embedder']

def __getattr__(name): # the rooms are imported when they are used, so that `import bilingual_embed` takes no time
    if name in __all__:
        from . import embed
        return getattr(embed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

def __dir__(): return sorted({*globals(), *__all__})
