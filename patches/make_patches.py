"""Write the patches of this folder anew: `python -m patches.make_patches`, after a change of what they add.

A patch adds files of patches/added, and with them every file of this repository that they import, reduced to what they
need of it, and the C++ that they name. A file whose place is taken in the stock tree gets the name pmr_<name> there.
"""

import ast
from pathlib import Path

from patches.series import FILES, SERIES

PATCHES = Path(__file__).resolve().parent
ROOT = PATCHES.parent
PACKAGES = ("baselines", "modules", "src")


def main():
    """Write every patch."""
    for name, text in make_patches().items():
        (PATCHES / name).write_text(text, encoding="utf-8")


def make_patches():
    """{name: text} of the series."""
    texts, there, inserted = {}, set(), {}
    for patch in SERIES:
        sections = [insertion_diff(path, lines, inserted.setdefault(path, []))
                    for path, lines in sorted(patch.insertions.items())]
        new = {path: text for path, text in added_files(patch.added).items() if path not in there}
        there |= set(new)
        sections += [addition_diff(path, text) for path, text in sorted(new.items())]
        texts[patch.name] = f"{patch.purpose}\n\nWritten by `python -m patches.make_patches`.\n\n" + "".join(sections)
    return texts


def insertion_diff(path, lines, inserted):
    """The diff that inserts {line: text} into a file. `inserted` lists (line, count) of the patches before, and grows.
    """
    diff, before_here = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n", 0
    for line, text in sorted(lines.items()):
        new = text.split("\n")
        old = line + sum(count for at, count in inserted if at <= line)  # after what is already inserted there
        diff += f"@@ -{old},0 +{old + before_here + 1},{len(new)} @@\n" + plus(new)
        before_here += len(new)
    inserted += [(line, len(text.split("\n"))) for line, text in lines.items()]
    return diff


def addition_diff(path, text):
    """The diff that adds a file."""
    lines = text.splitlines()
    return (f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
            f"@@ -0,0 +1,{len(lines)} @@\n{plus(lines)}")


def plus(lines):
    """Lines as a diff adds them."""
    return "".join(f"+{line}\n" for line in lines)


def added_files(names):
    """{path in the stock tree: text} of files of patches/added and of all that they import from this repository."""
    needed, done = {}, {}
    files = {f"src/{name}": stock_text(PATCHES / "added" / name, None, needed) for name in names}
    while todo := {path: set(wanted) for path, wanted in needed.items() if wanted != done.get(path)}:
        done |= todo
        files |= {place(path): stock_text(ROOT / path, wanted, needed) for path, wanted in todo.items()}
    sources = {f"modules/{path.name}": path.read_text(encoding="utf-8") for path in ROOT.glob("modules/*.cpp")}
    return files | {path: text for path, text in sources.items() if any(Path(path).name in f for f in files.values())}


def place(path):
    """Where a file of this repository stands in the stock tree."""
    folder, name = path.rsplit("/", 1)
    return f"{folder}/pmr_{name}" if path in FILES else path


def stock_text(path, wanted, needed):
    """The text of a file for the stock tree, reduced to what the wanted names need, or whole where that is None.

    What it imports from this repository is added to `needed`, {path: names}.
    """
    statements = list(with_text(path.read_text(encoding="utf-8")))
    kept = statements if wanted is None else [statements[i] for i in sorted(selected(statements, wanted, path))]
    names = set().union(bound_names(node for node, _ in kept), *(names_in(node) for node, _ in kept))
    text = "".join(
        blank_lines(text) + import_text(node, names, needed) if isinstance(node, (ast.Import, ast.ImportFrom)) else text
        for node, text in kept
    )
    part = ", in part" if len(kept) < len(statements) else ""
    return f"# From {path.relative_to(ROOT).as_posix()} of the PMR repository{part}; MIT licence.\n{text.lstrip()}"


def selected(statements, wanted, path):
    """The indices of those (statement, text) that the wanted names need; of the docstring too if that is all."""
    nodes = [node for node, _ in statements]
    defined = bound_names(node for node in nodes if not isinstance(node, (ast.Import, ast.ImportFrom)))
    if unknown := wanted - defined:
        raise ValueError(f"{path} does not define {', '.join(sorted(unknown))}")
    kept, names = set(), set(wanted)
    while grown := {i for i, node in enumerate(nodes) if belongs(node, names, defined)} - kept:
        kept |= grown
        names |= set().union(*(names_in(nodes[i]) for i in grown))
    docstring = {i for i in (0,) if isinstance(nodes[i], ast.Expr) and isinstance(nodes[i].value, ast.Constant)}
    return kept | docstring if kept | docstring == set(range(len(nodes))) else kept


def with_text(source):
    """(statement, its lines with the comments and blank lines above) of a file."""
    lines, start = source.splitlines(keepends=True), 0
    for node in ast.parse(source).body:
        yield node, "".join(lines[start:node.end_lineno])
        start = node.end_lineno


def blank_lines(text):
    """The line ends that a text begins with."""
    return text[: len(text) - len(text.lstrip("\n"))]


def bound_names(nodes):
    """The names that top-level statements bind."""
    names = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for target in targets for n in ast.walk(target)
                      if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def names_in(node):
    """Every name that a statement mentions."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def belongs(node, names, defined):
    """Whether a statement binds one of the names or, binding nothing, changes what one of the file's own stands for."""
    bound = bound_names([node])
    if bound:
        return bool(bound & names)
    mentioned = names_in(node)
    return "__name__" not in mentioned and bool(mentioned & names & defined)


def import_text(node, names, needed):
    """An import of those of its names that are wanted, from where they are in the stock tree."""
    node.names = [alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) in names]
    module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    if module.split(".")[0] in PACKAGES:
        path = module.replace(".", "/") + ".py"
        if not isinstance(node, ast.ImportFrom) or not (ROOT / path).is_file():
            raise ValueError(f"`{ast.unparse(node)}` cannot be followed: write `from package.file import name`")
        needed.setdefault(path, set()).update(alias.name for alias in node.names)
        node.module = place(path).removesuffix(".py").replace("/", ".")
    return ast.unparse(node) + "\n"


if __name__ == "__main__":
    main()
