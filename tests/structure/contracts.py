"""A contract for import-linter: a name with a leading underscore is used inside its own folder only."""

from __future__ import annotations

import grimp
from importlinter import Contract, ContractCheck, fields, output


class PrivateModules(Contract):
    """No module outside a folder imports the folder's modules whose names begin with an underscore."""

    type_name = "private"
    packages = fields.ListField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        broken = []
        for imported in sorted(graph.modules):
            folder, _, name = imported.rpartition(".")
            if not name.startswith("_") or name.startswith("__") or imported.split(".")[0] not in self.packages:
                continue
            broken += [
                (importer, imported)
                for importer in sorted(graph.find_modules_that_directly_import(imported))
                # The folder itself is its __init__.py; what lies in a folder below is another room.
                if importer != folder and importer.rpartition(".")[0] != folder
            ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["broken"]:
            output.print_error(f"{importer} imports {imported}, which is used inside its folder only")
