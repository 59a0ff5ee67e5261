"""What the commands do, once `flows.words` has read their words.

initializing: `bnf init`
running: `bnf run` and `evaluate`
sweeping: `bnf sweep`
planning: `bnf plan`; sweep_planning: of a sweep
watching: `bnf watch` and `ui`
listing: `bnf runs` and `rm`
showing: `bnf show` and `report`; items: `bnf show --items`
comparing: `bnf compare`
exporting: `bnf export`; model_card: the card that it writes; pushing: its model on the hub
chatting: `bnf chat`; chat_models: the processes that answer; chat_screen: what the terminal shows
fetching: `bnf fetch`
upkeep: `bnf cancel`, `gc` and `join`
doctor: `bnf doctor`
scoring: `bnf score` and `judge-score`
studying: `bnf study`; study_page, sweep_study_page: tables, figure and page without a language model and with; study_files: what both share
"""
