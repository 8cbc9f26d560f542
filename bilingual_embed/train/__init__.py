"The training loop, the stages, a plan before them, and hard negatives between them."
