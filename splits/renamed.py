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
    """Finds a module under its old name: the same module, not a second copy of it.

    Where its parts have gone to several modules, or names in it are others now, a
    stand-in looks its names up there.
    """

    def __init__(
        self, new_names: Mapping[str, str | tuple[str, ...]], names: Mapping[str, str]
    ) -> None:
        self.homes = {
            old: (new,) if isinstance(new, str) else new
            for old, new in new_names.items()
        }
        self.names = names
        self.changed = {old.rpartition(".")[0] for old in names}

    def find_spec(
        self,
        fullname: str,
        path: Any,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self.homes:
            return None
        _warn(fullname, " and ".join(self.homes[fullname]))
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """A stand-in; of one module, `exec_module` puts that itself in its place."""
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__
        homes = self.homes[old]
        if len(homes) == 1 and old not in self.changed:
            sys.modules[old] = importlib.import_module(homes[0])
        else:
            vars(module)["__getattr__"] = attributes(old, *homes, names=self.names)

    def get_code(self, fullname: str) -> types.CodeType | None:
        """The code of the first module, which `python -m OLD_NAME` runs."""
        spec = importlib.util.find_spec(self.homes[fullname][0])
        assert spec is not None
        assert isinstance(spec.loader, importlib.abc.InspectLoader)
        return spec.loader.get_code(spec.name)


def modules(
    new_names: Mapping[str, str | tuple[str, ...]],
    names: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Let modules be imported by their old names, too.

    Args:
        new_names: For each old dotted name, the new one; or all modules that its parts
            have gone to, the one that can be run, if any, first.
        names: The dotted name of what has another name in its module now, by the old
            dotted name.
    """
    sys.meta_path.append(_OldModules(new_names, names))


def attributes(
    module: str, *homes: str, names: Mapping[str, str] = types.MappingProxyType({})
) -> Callable[[str], Any]:
    """The `__getattr__` of a module, or package, whose names have gone elsewhere.

    Args:
        module: What version 0.1 called the module.
        homes: Where its names are now; the first module that has one gives it.
        names: As in `modules`; consulted first.
    """

    def look_up(name: str) -> Any:
        old = f"{module}.{name}"
        if old in names:
            _warn(old, names[old])
            home, _, new = names[old].rpartition(".")
            return getattr(importlib.import_module(home), new)
        for home in () if is_its_own(name) else homes:
            there = importlib.import_module(home)
            if hasattr(there, name):
                found = getattr(there, name)
                # It may be there because it is used there.
                defined = getattr(found, "__module__", None)
                place = defined if defined in homes else home
                _warn(old, f"{place}.{name}")
                return found
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    def is_its_own(name: str) -> bool:
        """Whether it is no old name: Python's own, or a module of the package."""
        if name.startswith("__"):
            return True
        path = getattr(sys.modules[module], "__path__", [])
        return PathFinder.find_spec(f"{module}.{name}", path) is not None

    return look_up


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is called {new} since version 0.2; the old name works until 0.3.",
        DeprecationWarning,
        stacklevel=3,
    )
