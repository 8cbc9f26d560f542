"MTEB tasks, suites, baselines, verdicts, the backbone's own tests, and the leaderboard."
