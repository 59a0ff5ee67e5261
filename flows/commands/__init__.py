"""What the commands do, once `flows.words` has read their words.

running: `bnf run` and `evaluate`
planning: `bnf plan`
watching: `bnf watch` and `ui`
showing: `bnf runs`, `show` and `report`
comparing: `bnf compare`
upkeep: `bnf cancel`, `gc` and `join`
doctor: `bnf doctor`
scoring: `bnf score` and `judge-score`
"""
