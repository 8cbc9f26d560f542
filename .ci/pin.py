#!/usr/bin/env python
"""constraints.txt: the exact version, as installed here, of everything that settings.ini asks for, and of all that these need.

Run it in an environment where the tests pass: python .ci/pin.py
"""
import configparser, importlib.metadata as md, shlex
from pathlib import Path
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
INI = configparser.ConfigParser(delimiters=['='])
INI.read(ROOT/'settings.ini', encoding='utf-8')
SETTINGS = INI['DEFAULT']
OLDEST = f"{SETTINGS['min_python']}.0"   # Python
EXTRAS = ('requirements', 'train_requirements', 'onnx_requirements', 'index_requirements', 'cluster_requirements',
          'dev_requirements')
HEAD = "# Exact versions under which the tests pass (made by .ci/pin.py; Python 3.11, Linux). pip install -c constraints.txt -e '.[dev]'"

def asked_for():
    "The requirements that settings.ini lists"
    return [Requirement(r) for k in EXTRAS for r in shlex.split(SETTINGS[k])] + [Requirement('setuptools')]

def too_new(name):
    "Does this release leave out the oldest Python that settings.ini allows?"
    wanted = md.metadata(name)['Requires-Python'] or ''
    return not SpecifierSet(wanted).contains(OLDEST)

def applies(requirement, extras):
    "Does a dependency count here, given the extras that were asked of the package that names it?"
    return not requirement.marker or any(requirement.marker.evaluate(dict(extra=e)) for e in ('', *extras))

def pins():
    "Name -> 'Name==version' of all distributions, dependencies of dependencies included"
    todo = [(r, '') for r in asked_for()]
    found,seen = {},set()
    while todo:
        r,why = todo.pop()
        key = (canonicalize_name(r.name), *sorted(r.extras))
        if key in seen: continue
        seen.add(key)
        try: dist = md.distribution(r.name)
        except md.PackageNotFoundError:
            needed = f' (needed by {why})' if why else ''
            raise SystemExit(f"{r.name}{needed} is not installed here; pip install -e '.[dev]' first") from None
        found[key[0]] = f"{dist.metadata['Name']}=={dist.version.split('+')[0]}"
        todo += [(q, r.name) for q in map(Requirement, dist.requires or []) if applies(q, r.extras)]
    return found

if __name__ == '__main__':
    found = pins()
    if bad := [v for name,v in found.items() if too_new(name)]:
        raise SystemExit(f"{', '.join(bad)}: not for Python {OLDEST}; install an older release")
    lines = [v for _,v in sorted(found.items())]
    (ROOT/'constraints.txt').write_text('\n'.join([HEAD, *lines]) + '\n', encoding='utf-8')
    print(f'{len(lines)} pins in constraints.txt')
