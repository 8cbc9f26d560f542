"A pretrained multilingual encoder carried into the form of JinaBERT: read, trimmed, its positions made ALiBi, healed."
