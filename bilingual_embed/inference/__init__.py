"A model folder in use: encode, search, and the formats of sentence-transformers, ONNX and the published checkpoints."
