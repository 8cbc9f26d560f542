"The objectives: MLM, InfoNCE, classification tuples, Pearson, distillation, and gradient caching."
