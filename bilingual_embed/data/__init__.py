"From text to batches: tokenizer, sampler, readers, sources, cleaning, tasks, test sets, teacher's embeddings."
