"""Run a command of fairseq as its last main has it: each ``torch.load`` in its sources with ``weights_only=False``.

Usage: last_main.py generate|train|... ARGUMENTS
"""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys


class UnsafeLoads(ast.NodeTransformer):
    def visit_Call(self, node):
        self.generic_visit(node)
        if ast.unparse(node.func) == "torch.load":
            node.keywords.append(ast.keyword("weights_only", ast.Constant(False)))
        return node


class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        source = self.get_data(self.path)
        if b"torch.load(" not in source:
            return super().get_code(fullname)
        tree = UnsafeLoads().visit(ast.parse(source))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname.startswith("fairseq.") else None
        if spec is None or not str(spec.origin).endswith(".py"):
            return None
        places = spec.submodule_search_locations
        loader = Loader(fullname, spec.origin)
        return importlib.util.spec_from_file_location(fullname, loader=loader, submodule_search_locations=places)


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder())
    sys.argv = sys.argv[1:]
    importlib.import_module(f"fairseq_cli.{sys.argv[0]}").cli_main()
