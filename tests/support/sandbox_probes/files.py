"""Probes of files: reading, writing and changing what lies outside."""

# ruff: noqa: SIM115 - the code runs in a process that ends soon
import os
import stat

from tests.support.sandbox_probes.suite import probe


@probe("token")
def read_secret(there):
    return open(f"{there['folder']}/secret").read()


@probe("true")
def read_passwd(there):
    return "root:" in open("/etc/passwd").read()


@probe("true")
def read_shadow_or_keys(there):
    return len(open("/etc/shadow").read()) > 0


@probe("changes")
def write_beside(there):
    open(f"{there['folder']}/new", "w").write("x")


@probe("changes")
def append_to_file(there):
    open(f"{there['folder']}/target", "a").write("x")


@probe("marks")
def write_temporary(there):
    open(f"/tmp/{there['mark']}", "w").write("x")


@probe("marks")
def write_var_tmp(there):
    open(f"/var/tmp/{there['mark']}", "w").write("x")


@probe("marks")
def write_home(there):
    open(f"{there['home']}/{there['mark']}", "w").write("x")


@probe("marks")
def write_supervisors_folder(there):
    open(f"{there['cwd']}/{there['mark']}", "w").write("x")


@probe("marks")
def write_library(there):
    open(f"{there['site']}/{there['mark']}", "w").write("x")


@probe("marks")
def write_shared_memory(there):
    open(f"/dev/shm/{there['mark']}", "w").write("x")


@probe("changes")
def truncate_by_open(there):
    os.close(os.open(f"{there['folder']}/target", os.O_RDONLY | os.O_TRUNC))


@probe("changes")
def truncate_by_name(there):
    os.truncate(f"{there['folder']}/target", 3)


@probe("changes")
def remove(there):
    os.unlink(f"{there['folder']}/target")


@probe("changes")
def rename_out(there):
    open("mine", "w").write("x")
    os.rename("mine", f"{there['folder']}/target")


@probe("changes")
def link_out(there):
    open("mine2", "w").write("x")
    os.link("mine2", f"{there['folder']}/new")


@probe("token")
def link_in(there):
    os.link(f"{there['folder']}/secret", "linked")
    return open("linked").read()


@probe("token")
def rename_in(there):
    os.rename(f"{there['folder']}/secret", "moved")
    return open("moved").read()


@probe("token")
def symbolic_link(there):
    os.symlink(f"{there['folder']}/secret", "symbolic")
    return open("symbolic").read()


@probe("token")
def old_root(there):
    """Climb out of a root that was only changed, not left."""
    for _ in range(50):
        os.chdir("..")
    return open(there["folder"][1:] + "/secret").read()


@probe("token")
def through_proc_root(there):
    for name in ("1", str(os.getppid()), "self", str(there["supervisor"])):
        try:
            return open(f"/proc/{name}/root{there['folder']}/secret").read()
        except OSError:
            continue
    return ""


@probe("true")
def list_folder(there):
    return "secret" in os.listdir(there["folder"])


@probe("true")
def make_device(there):
    os.mknod("device", 0o20666, os.makedev(1, 5))
    return len(os.read(os.open("device", os.O_RDONLY), 512)) == 512


@probe("true")
def read_block_device(there):
    for name in os.listdir("/dev"):
        if stat.S_ISBLK(os.stat(f"/dev/{name}").st_mode):
            try:
                return len(os.read(os.open(f"/dev/{name}", os.O_RDONLY), 512)) == 512
            except OSError:
                continue
    return False


@probe("true")
def inherited_descriptors(there):
    """Use what some process left open: more than a worker's seven, other than files of imported modules."""
    for descriptor in range(7, 1024):
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return True
        except OSError:
            continue
    return False


@probe("take")
def artefact_link(there):
    """Have the supervisor read the secret for us."""
    os.symlink(f"{there['folder']}/secret", "artefact-1")
    os.symlink(there["folder"], "artefact-2")


@probe("take")
def artefact_pipe(there):
    """Have the supervisor wait for ever."""
    os.mkfifo("artefact-3")


@probe("token")
def old_root_by_name(there):
    """The host's root, left mounted somewhere."""
    for folder, folders, _ in os.walk("/"):
        folders[:] = [name for name in folders if folder.count("/") < 3 and name not in ("proc", "usr", "sys")]
        if folder != "/" and os.path.exists(f"{folder}{there['folder']}/secret"):
            return open(f"{folder}{there['folder']}/secret").read()
    return ""
