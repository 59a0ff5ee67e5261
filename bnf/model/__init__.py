"""Models on packed rows: loading, attention, and the log-probabilities of a row's tokens.

loading: a model folder as a model in float32, bf16 or 4 bits, and the numerics of this process.
quantized: linear layers in 4 bits, and whole again.
logps: log-probabilities and log-odds of a row's completion tokens, through the chunked head.
sharding: models that are spread over processes.
families: which models are supported.
kernels: which kernels compute a model's attention, tried on this device.
shapes: a model's sizes, from its config.json alone.
plain_models: models that are known to be supported without asking transformers.
digests: content digests of model folders.
templates: a model's chat template with what a recipe says of it; served: what a policy was trained with.
device: the kind of device that torch computes on, and the devices there are.
allocator: memory settings of a process that trains or scores.
threads: torch's number of threads, given back after a job.

Inside: segments (which token sees which), attention, cpu_attention and cuda_attention (the kernels), lean (layers that keep less),
experts (mixtures of experts), tied (one gradient of embeddings that are also the head).
"""
