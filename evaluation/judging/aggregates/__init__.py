"""From judgments to a benchmark's result: scores with their intervals, and what says whether the judge can be trusted.

judgment: one judgment, as files hold it
win_rate: Arena-Hard's win rate, position bias, trust, what one model gained over another
arena_hard_v2: how Arena-Hard v2.0 differs from that
wildbench: WB-Score and WB-Reward
style_control: the style of answers, and win rates with the style held equal as in Arena-Hard v0.1
style_control_v2: the same as in v2.0
agreement: how far two judges agree
"""
