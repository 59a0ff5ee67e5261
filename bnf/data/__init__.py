"""Prompt groups, and how conversations become token ids and rows.

groups: the data set of a training, in memory and on disk.
columns: a safetensors file that is written as its values come.
group_arrays: the arrays of a data set's file, mapped and checked.
plain: groups from plain rows, without the pipeline.
token_ids: token ids in four bytes each.
packing: groups as rows of tokens.
row_order: which groups each row holds, without torch.
longest: the longest group, which a row has to hold.
sizes: how many tokens a data set has, from its stored lengths.
rendering: chat messages as token ids.
chat_template: what a chat template writes, checked.
control: control tokens in a conversation's texts, which stay text.
same_tokenizer: whether another model reads token ids as the policy does.
system_prompt: the system message of conversations that have none.
marked: messages, their context, and their texts.
"""
