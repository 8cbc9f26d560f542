"What every package stands on: records, recipes, plots, and files that survive a kill."
