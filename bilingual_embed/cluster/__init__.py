"Text beyond one machine: the same rules, in tasks that an engine runs on processes, Slurm or Ray."
