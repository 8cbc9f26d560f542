"A pretrained multilingual encoder carried into the form of JinaBERT: read, its vocabulary trimmed or replaced, its positions made ALiBi, healed."
