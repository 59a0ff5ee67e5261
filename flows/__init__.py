"""The command line, the recipes, and the flows that wire the stages together."""
