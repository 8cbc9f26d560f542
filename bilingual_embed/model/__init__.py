"The network: ALiBi, windows, attention, packed rows, JinaBERT. Tensors in, tensors out."
