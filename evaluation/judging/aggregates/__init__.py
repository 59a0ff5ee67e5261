"""From judgments to a benchmark's result: scores with their intervals, and what says whether the judge can be trusted.

judgment: one judgment, as files hold it
win_rate: Arena-Hard's win rate, position bias, trust, what one model gained over another
wildbench: WB-Score and WB-Reward
style_control: the style of answers, and win rates with the style held equal
agreement: how far two judges agree
"""
