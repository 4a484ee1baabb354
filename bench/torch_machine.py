#!/usr/bin/env python3
"""Which PyTorch this is, and what its matrix products run on; the torch_*.py beside this import it.

Needs python3-torch. usage: torch_machine.py [--threads N], prints one JSON line:
torch    the version
blas     the library behind torch.mm, with the kernels that it chose for this processor
aten     the instruction set of PyTorch's own loops
threads  how many PyTorch uses, all of the cores unless told
gpu      the GPU that PyTorch knows, if any
warning  what makes the numbers meaningless, if anything: Debian's python3-torch runs on the reference
         BLAS, plain loops in Fortran, unless libopenblas0-pthread is installed as well
"""
import argparse, ctypes, json, os, re, sys
import torch

INSTRUCTION_SETS = {'Haswell': 'AVX2', 'Zen': 'AVX2', 'Excavator': 'AVX2', 'SkylakeX': 'AVX-512',
                    'Cooperlake': 'AVX-512', 'SapphireRapids': 'AVX-512', 'Sandybridge': 'AVX', 'Prescott': 'SSE3'}


class SymbolInfo(ctypes.Structure):
    """Dl_info of dladdr(3)."""
    _fields_ = [('file', ctypes.c_char_p), ('base', ctypes.c_void_p), ('name', ctypes.c_char_p), ('address', ctypes.c_void_p)]


def blas_library():
    """The file that PyTorch's matrix products are in, through the symbol sgemm_; '' where that cannot be seen."""
    try:
        with open('/proc/self/maps') as maps:
            torch_cpu = next(line.split(maxsplit=5)[5].strip() for line in maps if 'libtorch_cpu' in line)
        info = SymbolInfo()
        ctypes.CDLL(None).dladdr(ctypes.cast(ctypes.CDLL(torch_cpu).sgemm_, ctypes.c_void_p), ctypes.byref(info))
        return os.path.realpath(info.file.decode())
    except (OSError, StopIteration, AttributeError):  # no Linux, or no such symbol
        return ''


def openblas():
    """The OpenBLAS that PyTorch is linked to, if it is."""
    try:
        library = ctypes.CDLL(blas_library() or None)
        library.openblas_get_config.restype = library.openblas_get_corename.restype = ctypes.c_char_p
        return library
    except (OSError, AttributeError):
        return None


def blas():
    """(name of the BLAS, warning or None)"""
    library, file = openblas(), os.path.basename(blas_library())
    if library:
        version = ' '.join(library.openblas_get_config().decode().split()[:2])
        core = library.openblas_get_corename().decode()
        return f'{version} ({core}{", " + INSTRUCTION_SETS[core] if core in INSTRUCTION_SETS else ""})', None
    mkl = re.search(r'Math Kernel Library.*?Version (\S+)', torch.__config__.show())
    if mkl:
        return f'MKL {mkl[1]}', None
    if file.startswith('libblas'):
        return 'reference BLAS', ('PyTorch runs on the reference BLAS here, many times slower than it can be: '
                                  'apt-get install libopenblas0-pthread')
    return file or ('Accelerate' if sys.platform == 'darwin' else 'unknown BLAS'), None


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def use_threads(count):
    """All cores for 0. OpenBLAS has threads of its own, which torch.set_num_threads does not reach."""
    count = count or cores()
    torch.set_num_threads(count)
    library = openblas()
    if library:
        library.openblas_set_num_threads(count)


def peak_mib():
    """The most memory this process has held, in MiB."""
    try:
        with open('/proc/self/status') as status:
            return int(re.search(r'VmHWM:\s+(\d+) kB', status.read())[1]) // 1024
    except OSError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == 'darwin' else 1024)


def describe():
    name, warning = blas()
    aten = re.search(r'CPU capability usage: (\S+)', torch.__config__.show())
    described = {'torch': torch.__version__, 'blas': name, 'aten': aten[1] if aten else 'unknown',
                 'threads': torch.get_num_threads()}
    if torch.cuda.is_available():
        described['gpu'] = torch.cuda.get_device_name()
    return {**described, 'warning': warning} if warning else described


def wait(gpu):
    """Until the GPU has done what it was told."""
    if gpu:
        torch.cuda.synchronize()


if __name__ == '__main__':
    cli = argparse.ArgumentParser()
    cli.add_argument('--threads', type=int, default=0)
    use_threads(cli.parse_args().threads)
    print(json.dumps(describe()))
