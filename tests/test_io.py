"core.io: damaged JSON files, locks between processes, modules that another system lacks"
import errno, json, os, signal, subprocess, sys, time

import numpy as np, pytest

from bilingual_embed.core import io
from bilingual_embed.core.io import is_disk_full, json_text, locked, peak_memory, read_json, write_json

BAD = {'{"a": ': 'is not JSON', '['*100_000: 'is not JSON', '[]': 'holds a list',
       '{"a": ' + '9'*5000 + '}': 'is not JSON', ' '*(1<<24) + '{}': 'more than any'}

@pytest.mark.parametrize('text', BAD, ids=['cut', 'nested', 'list', 'digits', 'long'])
def test_a_damaged_json_file_is_named(tmp_path, text):
    p = tmp_path/'x.json'
    p.write_text(text)
    with pytest.raises(ValueError, match=f'x.json.*{BAD[text]}.*write or fetch'): read_json(p)

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path/'x.json')   # opening it would wait for ever
    with pytest.raises(RuntimeError, match='not a regular file; delete it'):
        read_json(tmp_path/'x.json', RuntimeError, 'delete it')

@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf'), np.float64('nan')], ids=repr)
def test_what_is_written_is_json(tmp_path, number):
    "Python's own NaN and Infinity are refused by every other reader"
    def refuse(name): raise AssertionError(f"{name} is not JSON")
    x = dict(a=[1.5, (number, 'NaN')], b=dict(c=number))
    for text in (json_text(x), json_text(x, indent=1, ensure_ascii=False)):
        assert json.loads(text, parse_constant=refuse) == dict(a=[1.5, [None, 'NaN']], b=dict(c=None))
    write_json(tmp_path/'x.json', x)
    assert json.loads((tmp_path/'x.json').read_text(), parse_constant=refuse)['b'] == dict(c=None)

HOLD = """
import sys, time
from bilingual_embed.core.io import locked
with locked(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""

@pytest.fixture
def holder(tmp_path):
    "Another process that holds the lock on tmp_path/lock"
    p = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path/'lock')], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == 'held\n'
        yield p
    finally:
        p.kill()
        p.wait()
        p.stdout.close()

def test_another_process_is_kept_out_until_the_holder_is_killed(tmp_path, holder):
    with pytest.raises(BlockingIOError), locked(tmp_path/'lock', wait=False): pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    t = time.monotonic()
    with locked(tmp_path/'lock'): assert time.monotonic()-t < 5

def test_a_lock_is_released_by_an_error_and_by_closing(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path/'lock'): raise KeyError
    with locked(tmp_path/'lock', wait=False) as f: f.close()
    with locked(tmp_path/'lock', wait=False): pass

class Msvcrt:
    "Windows' byte locks, on paper: a byte of a file has one holder"
    LK_NBLCK,LK_UNLCK = 2,0
    def __init__(self): self.held = {}
    def locking(self, fd, mode, n):
        s = os.fstat(fd)
        byte = s.st_ino, os.lseek(fd, 0, os.SEEK_CUR)
        if mode == self.LK_NBLCK:
            if byte in self.held: raise PermissionError(13, 'Permission denied')
            self.held[byte] = n
        else: del self.held[byte]

def test_locks_where_there_is_no_fcntl(tmp_path, monkeypatch):
    windows = Msvcrt()
    monkeypatch.setitem(sys.modules, 'msvcrt', windows)
    monkeypatch.setattr(io, 'fcntl', None)
    p = tmp_path/'scores.csv'
    with open(p, 'w+') as f, locked(f):
        f.write('a row')
        with pytest.raises(BlockingIOError), locked(p, wait=False): pass
    assert p.read_text() == 'a row' and not windows.held

@pytest.mark.parametrize('full', ['ENOSPC', 'EDQUOT'])
def test_a_full_disk_and_a_spent_quota(full):
    if hasattr(errno, full): assert is_disk_full(OSError(getattr(errno, full), full))
    assert not is_disk_full(PermissionError(13, 'no')) and not is_disk_full(ValueError())

GROW = """
from bilingual_embed.core.io import peak_memory
before = peak_memory()
x = b'x'*200_000_000
print(peak_memory() - before)
"""
def test_peak_memory_in_a_process_of_its_own():
    if peak_memory() is None: pytest.skip('this system does not tell')
    grown = int(subprocess.run([sys.executable, '-c', GROW], capture_output=True, text=True, check=True).stdout)
    assert 150e6 < grown < 300e6
