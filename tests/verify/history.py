"""Git repositories made for tests: a mLSTM in NumPy through a line of commits, one of which breaks its stabilizer."""

import hashlib
import subprocess
from pathlib import Path

from verify import Case

# The regime in which the denominator is exp(-m) of the stabilizer.
CASE = Case(regime="init", length=5, dhqk=4, dhhv=3)
SUBJECT = "memory.cell:mlstm"

CELL = """
import numpy as np
from memory.gates import floor, log_sigmoid


def mlstm(q, k, v, i, f, eps=1e-6, norm_val=1.0):
    q, k, v, i, f = (np.asarray(array, np.float64) for array in (q, k, v, i, f))
    C, n = np.zeros((*q.shape[:2], q.shape[-1], v.shape[-1])), np.zeros_like(q[:, :, 0])
    m, h = np.zeros(q.shape[:2]), []
    for t in range(q.shape[2]):
        before, m = m, np.maximum(log_sigmoid(f[..., t]) + m, i[..., t])
        keep, take = np.exp(log_sigmoid(f[..., t]) + before - m), np.exp(i[..., t] - m)
        C = keep[..., None, None] * C + take[..., None, None] * k[:, :, t, :, None] * v[:, :, t, None, :]
        n = keep[..., None] * n + take[..., None] * k[:, :, t]
        query = q[:, :, t] * q.shape[-1] ** -0.5
        d = np.maximum(abs(np.sum(query * n, -1)), norm_val * floor(m)) + eps
        h.append(np.einsum("bhkv,bhk->bhv", C, query) / d[..., None])
    return np.stack(h, 2).astype(np.float32)
"""
GATES = """
import numpy as np


def log_sigmoid(f):
    return np.minimum(f, 0) - np.log1p(np.exp(-abs(f)))


def floor(m):
    return {floor}
"""
RIGHT, WRONG = GATES.format(floor="np.exp(-m)"), GATES.format(floor="np.ones_like(m)")
BROKEN = "from memory.cell import nothing_of_this_name\n"


def make(directory, total, first_bad, broken=(), *, prefix="", files=None):
    """A repository of ``total`` commits, numbered from 0, on a branch; its hashes.

    ``broken`` are those that do not import; ``prefix`` is put before the names of files; ``files(number)`` are more
    files, by name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "--quiet", "--initial-branch=main")
    stream = []
    for number in range(total):
        content = {
            f"{prefix}memory/__init__.py": BROKEN if number in broken else "",
            f"{prefix}memory/cell.py": CELL,
            f"{prefix}memory/gates.py": WRONG if number >= first_bad else RIGHT,
            "notes.txt": f"{number}\n",
            **(files(number) if files else {}),
        }
        stream.append(f"commit refs/heads/main\ncommitter A B <a@b> {1700000000 + 3600 * number} +0000\n")
        stream.append(data(f"change {number}"))
        stream += ["deleteall\n"] + [f"M 100644 inline {name}\n{data(text)}" for name, text in content.items()]
    subprocess.run(["git", "fast-import", "--quiet"], cwd=directory, input="".join(stream), text=True, check=True)
    git(directory, "reset", "--quiet", "--hard", "main")
    return git(directory, "rev-list", "--reverse", "main").split()


def data(text):
    return f"data {len(text.encode())}\n{text}\n"


def git(directory, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fingerprint(directory):
    """A hash of all that a user has: files of the checkout, HEAD, index, refs and their logs, settings, worktrees."""
    digest = hashlib.blake2b()
    for path in sorted(Path(directory).rglob("*")):
        inside = path.relative_to(directory)
        # The first search for refs makes a file of packed ones, without any in it.
        if path.is_file() and not str(inside).startswith((".git/objects", ".git/packed-refs")):
            digest.update(f"{inside}\0{path.stat().st_mode}\0{path.stat().st_mtime_ns}\0".encode() + path.read_bytes())
    for what in (["worktree", "list"], ["for-each-ref"], ["stash", "list"]):
        digest.update(git(directory, *what).encode())
    return digest.hexdigest()
