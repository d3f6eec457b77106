"""Removal of sessions and graphs of TensorFlow 1, which are no longer needed."""

import ast
from collections.abc import Iterator

from bert4keras.migrate import rules
from bert4keras.migrate.parts import Parts, Rewriter
from bert4keras.migrate.source import dotted, is_constant, keywords_of

MAKERS = frozenset(
    {
        *(f"tensorflow.compat.v1.{name}" for name in ("ConfigProto", "GPUOptions", "Session")),
        "tensorflow.compat.v1.InteractiveSession",
        "tensorflow.compat.v1.get_default_graph",
        "tensorflow.Graph",
        f"{rules.K}.get_session",
    }
)
"""Functions and classes of sessions, graphs and their configurations."""
SETTERS = frozenset({f"{rules.K}.set_session"})
INITIALIZERS = frozenset(
    f"tensorflow.compat.v1.{name}_initializer"
    for name in ("global_variables", "local_variables", "tables")
)
MEMORY = rules.Mark(
    "devices", "tf.config.set_logical_device_configuration limits the memory of a GPU"
)


class Sessions(Rewriter):
    """Removes sessions and graphs from a script.

    Attributes:
        done: the removed statements.
    """

    def __init__(self, parts: Parts):
        super().__init__(parts)
        self.done: set[ast.AST] = set()
        self.kept = self.assigned()

    def assigned(self) -> set[str]:
        """Return the names of sessions, graphs and configurations, dotted or not."""
        return {
            ".".join(target)
            for node in self.source.nodes
            if isinstance(node, ast.Assign) and len(node.targets) == 1
            if self.is_made(node.value) and (target := dotted(node.targets[0]))
        }

    def is_made(self, node: ast.AST) -> bool:
        """Tell whether an expression creates a session, a graph or a configuration."""
        return isinstance(node, ast.Call) and self.names.is_named(node.func, *MAKERS)

    def is_one(self, node: ast.AST) -> bool:
        """Tell whether an expression is a session, a graph or a configuration."""
        parts = dotted(node)
        return self.is_made(node) or (parts is not None and ".".join(parts) in self.kept)

    def rewrite(self) -> None:
        """Remove sessions and graphs if nothing else needs them."""
        statements = [x for x in self.source.nodes if isinstance(x, ast.stmt) and self.serves(x)]
        withs = [x for x in self.source.nodes if isinstance(x, ast.With) and self.enters(x)]
        inside = {y for x in statements for y in ast.walk(x)}
        inside |= {y for x in withs for item in x.items for y in ast.walk(item)}
        uses = [x for x in self.source.nodes if self.is_use(x)]
        if not (statements or withs) or not inside.issuperset(uses):
            return
        if not any(self.is_setter(x) and x not in inside for x in self.source.nodes):
            self.imports.gone |= SETTERS
        for statement in statements:
            self.replace(statement)
        for each in withs:
            self.unwrap(each)

    def is_setter(self, node: ast.AST) -> bool:
        """Tell whether a node is a function that sets a session."""
        return isinstance(node, ast.Name) and self.names.is_named(node, *SETTERS)

    def is_use(self, node: ast.AST) -> bool:
        """Tell whether a node is a session, a graph or a configuration, or creates one."""
        if isinstance(node, ast.Call):
            return self.is_made(node)
        return isinstance(node, ast.Name | ast.Attribute) and self.is_one(node)

    def serves(self, statement: ast.stmt) -> bool:
        """Tell whether a statement only creates, configures or sets a session."""
        match statement:
            case ast.Assign(targets=[target], value=value):
                return self.is_made(value) or self.configures(target)
            case ast.Expr(value=ast.Call() as call):
                if self.names.is_named(call.func, *SETTERS):
                    return True
                return (
                    getattr(call.func, "attr", "") in ("run", "close")
                    and self.is_one(call.func.value)
                    and all(self.initializes(x) for x in call.args)
                )
        return False

    def configures(self, target: ast.expr) -> bool:
        """Tell whether an expression is an attribute of a configuration: `config.gpu_options.x`."""
        while isinstance(target, ast.Attribute):
            target = target.value
            if self.is_one(target):
                return True
        return False

    def initializes(self, node: ast.expr) -> bool:
        """Tell whether an expression initialises variables, which is no longer needed."""
        return isinstance(node, ast.Call) and self.names.is_named(node.func, *INITIALIZERS)

    def enters(self, statement: ast.With) -> bool:
        """Tell whether a statement only enters sessions and graphs: `with graph.as_default():`."""
        return all(
            isinstance(item.context_expr, ast.Call)
            and getattr(item.context_expr.func, "attr", "") == "as_default"
            and self.is_one(item.context_expr.func.value)
            and item.optional_vars is None
            for item in statement.items
        )

    def replace(self, statement: ast.stmt) -> None:
        """Remove a statement, or replace it if it allows the memory of GPUs to grow."""
        self.done.add(statement)
        if self.grows(statement):
            tf = self.imports.need(statement, "tensorflow", "tf")
            indentation, newline = self.source.indentation(statement), self.source.newline
            text = (
                f"for gpu in {tf}.config.list_physical_devices('GPU'):{newline}{indentation}    "
                f"{tf}.config.experimental.set_memory_growth(gpu, True)"
            )
            self.edits.replace(self.source.span(statement), text)
            return
        if "memory_fraction" in self.source.code(statement):
            self.comments.mark(statement, MEMORY)
        self.edits.remove_statement(statement)

    def grows(self, statement: ast.stmt) -> bool:
        """Tell whether a statement allows the memory of GPUs to grow."""
        match statement:
            case ast.Assign(targets=[ast.Attribute(attr="allow_growth")], value=value):
                return is_constant(value, True)
        return any(
            is_constant(keywords_of(x).get("allow_growth"), True)
            for x in ast.walk(statement)
            if isinstance(x, ast.Call)
        )

    def unwrap(self, statement: ast.With) -> None:
        """Remove the first line of a `with`, and the indentation of the others."""
        source = self.source
        body = statement.body
        start, first = source.line_start(source.start(statement)), source.start(body[0])
        if source.line_of(first) == source.line_of(start):
            self.edits.replace((source.start(statement), first))
            return
        outer, inner = source.indentation(statement), source.indentation(body[0])
        colon = source.find(":", source.end(statement.items[-1].context_expr), first)
        self.edits.remove((start, source.line_end(colon)))
        last = source.line_of(source.end(body[-1]))
        for line in range(source.line_of(first), last + 1):
            place = source.starts[line - 1]
            if line not in self.inside_strings and source.text.startswith(inner, place):
                self.edits.remove((place + len(outer), place + len(inner)))

    @property
    def inside_strings(self) -> set[int]:
        """The lines that begin inside a multi-line string."""
        return set(self.lines_of_strings())

    def lines_of_strings(self) -> Iterator[int]:
        """Yield the lines that begin inside a multi-line string."""
        for node in self.source.nodes:
            if isinstance(node, ast.Constant | ast.JoinedStr):
                yield from range(node.lineno + 1, node.end_lineno + 1)
