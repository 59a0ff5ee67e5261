"""Records become prompt groups and a ledger of what became of every row.

config: the recipe's `prepare` section
prepare: groups of sources or of labelled samples
foresight: whether sources will give pairs, before anything is prepared
limit: the rows of a source's first prompts
render: a record as a row with token ids
pool: rendering here, by several processes, or on Ray
processes: processes that share out tasks
ray_pool: those of a Ray cluster
languages: the language of a prompt
staged: a rendered row as it is stored
staging: the rows between reading and writing
label_resolution: what rows say of a prompt, as preferences
select: the mixture, the dev set, masks and noise
counts: the outcomes of rows, and what ledger.json holds
write: groups, as the choices leave them
group_counter: statistics of groups as they are written
ledger: the ledger's lines, counts and refusals
"""
