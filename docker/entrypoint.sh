#!/usr/bin/env bash
# The image's entry point: takes secrets from files, makes sure that the home can be written, and becomes the command.
set -euo pipefail

# NAME_FILE names a mounted secret's file (Docker's and Kubernetes' way), so that no inspection of the container shows the value.
for name in HF_TOKEN OPENAI_API_KEY WANDB_API_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY \
    PREFECT_API_KEY PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING PREFECT_SERVER_DATABASE_PASSWORD; do
    file_variable=${name}_FILE
    file=${!file_variable:-}
    [ -n "$file" ] || continue
    if [ -n "${!name:-}" ]; then
        echo "$name must be given once, got $file_variable as well; unset one of them" >&2
        exit 2
    fi
    if [ ! -r "$file" ]; then
        echo "$file_variable must name a file that user $(id -u) can read, got $file; mount the secret there" >&2
        exit 2
    fi
    value=$(<"$file")
    export "$name=$value"
    unset "$file_variable"
done

export BNF_HOME=${BNF_HOME:-/var/lib/bnf}
if ! mkdir -p "$BNF_HOME" 2>/dev/null || [ ! -w "$BNF_HOME" ]; then
    echo "BNF_HOME must be a folder that user $(id -u) can write, got $BNF_HOME; chown the volume, or start as its owner (--user)" >&2
    exit 2
fi

exec "$@"
