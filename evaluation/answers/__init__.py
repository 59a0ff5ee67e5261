"""Answers: finds the final answer in a completion, and tells whether two answers are equal. Nothing that a model wrote is executed.

parsing: the answer by ZeroEval's rules.
boxed: the answer in a solution of MATH.
arithmetic: the value of an arithmetic expression.
latex: whether two answers in LaTeX have the same normal form; latex_text, latex_terms and latex_form make that form.
thoughts: what a completion says after its thought.
math_verify: whether two answers are symbolically equal.
letters: the letter that a free reply chooses, by MMLU-Pro's rules and by GPQA's.
instructions, punkt: which of IFEval's instructions a reply follows, and NLTK's data that its checkers need.
"""
