"""The library: training with BNF and other objectives on prompt groups, without the pipeline around it.

Its rooms from top to bottom, where a room imports only rooms below it: train (`python -m bnf.train`); training, analysis and loss (BNF's,
for a loop of one's own); reference; model; objectives; data; and modules that need none of these: plugins (finds and checks them), files
(writes them whole), process (children that end with their parent), failures (what kinds of
errors there are), nearest (what was meant by a name that there isn't), model_folders (opens them, and runs no code of theirs), urls (as
they may be shown), between (texts between marks), host, paths, plain_yaml, progress.
"""

import logging

# It warns in every process, whatever is trained, that a kernel for its 4-bit layers on a CPU isn't there: it computes them without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
