"""What the commands do, once `flows.words` has read their words.

initializing: `bnf init`
running: `bnf run` and `evaluate`
planning: `bnf plan`
watching: `bnf watch` and `ui`
listing: `bnf runs` and `rm`
showing: `bnf show` and `report`
comparing: `bnf compare`
exporting: `bnf export`; model_card: the card that it writes
chatting: `bnf chat`; chat_models: the processes that answer; chat_screen: what the terminal shows
upkeep: `bnf cancel`, `gc` and `join`
doctor: `bnf doctor`
scoring: `bnf score` and `judge-score`
studying: `bnf study`; study_page: its tables, figure and page
"""
