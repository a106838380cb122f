"""Old names of modules: those of version 0.1 work, with a warning, until version 0.3."""

import importlib
import importlib.abc
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class _OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name: the same module, not a second copy of it."""

    def __init__(self, new_names: Mapping[str, str]) -> None:
        self.new_names = new_names

    def find_spec(
        self,
        fullname: str,
        path: Any,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self.new_names:
            return None
        _warn(fullname, self.new_names[fullname])
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """A stand-in; `exec_module` puts the module itself in its place."""
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(
            self.new_names[module.__name__]
        )

    def get_code(self, fullname: str) -> types.CodeType | None:
        """The module's code, which `python -m OLD_NAME` runs."""
        spec = importlib.util.find_spec(self.new_names[fullname])
        assert spec is not None
        assert isinstance(spec.loader, importlib.abc.InspectLoader)
        return spec.loader.get_code(spec.name)


def modules(new_names: Mapping[str, str]) -> None:
    """Let modules be imported by their old names, too.

    Args:
        new_names: For each old dotted name, the new one.
    """
    sys.meta_path.append(_OldModules(new_names))


def attributes(package: str, *homes: str) -> Callable[[str], Any]:
    """A package's `__getattr__`, where a module of that name was before.

    Args:
        package: The package, which was a module in version 0.1.
        homes: Where its names are now; the first module that has one gives it.
    """

    def look_up(name: str) -> Any:
        # A module of the package is no old name, though others may have imported it.
        path = sys.modules[package].__path__
        own = PathFinder.find_spec(f"{package}.{name}", path) is not None
        for home in () if own or name.startswith("__") else homes:
            module = importlib.import_module(home)
            if hasattr(module, name):
                _warn(f"{package}.{name}", f"{home}.{name}")
                return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is called {new} since version 0.2; the old name works until 0.3.",
        DeprecationWarning,
        stacklevel=3,
    )
