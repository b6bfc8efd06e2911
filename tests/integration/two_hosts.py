# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: network namespaces with a link between them and a host name each, and an agent that starts OpenMPI's
daemon in the right one. Needs the right to make namespaces (root); where it is missing the tests are skipped, with the reason.

The case `host_file`: launch/run_mpi.sh with a host file trains on both hosts to the bits of one rank."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import plinth_runs as runs

SKIPPED = 77  # what ctest takes for "skipped"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
NETWORK = "10.77.0.0/24"
CONFIG = "gpt/tiny.yaml"
OVERRIDES = {"train.steps": 30, "model.dropout": 0.1, "data.sequence_length": 32, "train.lanes": 4}


def skip(reason):
    print(f"skipped: {reason}", flush=True)
    sys.exit(SKIPPED)


class TwoHosts:
    """`with TwoHosts(folder) as hosts`: the namespaces go away at the end, with what still runs in them."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.names = [f"plinth-{os.getpid()}-{host}" for host in "ab"]

    def ip(self, *words, check=True):
        done = subprocess.run(["ip", *words], text=True, capture_output=True)
        if check and done.returncode != 0:
            runs.fail(f"ip {' '.join(words)}: {done.stderr.strip()}")
        return done

    def __enter__(self):
        try:
            made = self.ip("netns", "add", self.names[0], check=False)
        except FileNotFoundError:
            skip("two hosts need the command ip (iproute2)")
        if made.returncode != 0:
            skip(f"two hosts need network namespaces: {made.stderr.strip()}")
        if subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode != 0:
            self.__exit__()
            skip("two hosts need host names of their own: unshare --uts is not allowed")
        self.ip("netns", "add", self.names[1])
        self.ip("link", "add", "host0", "netns", self.names[0], "type", "veth", "peer", "name", "host1", "netns", self.names[1])
        for index, name in enumerate(self.names):
            self.ip("-n", name, "addr", "add", f"{ADDRESSES[index]}/24", "dev", f"host{index}")
            self.ip("-n", name, "link", "set", f"host{index}", "up")
            self.ip("-n", name, "link", "set", "lo", "up")
        self.agent = self.folder / "agent.sh"
        self.agent.write_text(
            "#!/bin/sh\nhost=$1; shift\n"
            f"case $host in {ADDRESSES[0]}) space={self.names[0]} name=host0;; *) space={self.names[1]} name=host1;; esac\n"
            "exec ip netns exec $space unshare --uts sh -c \"hostname $name; exec sh -c '$*'\"\n")
        self.agent.chmod(0o755)
        self.host_file = self.folder / "hosts"
        self.host_file.write_text("".join(f"{address} slots=2\n" for address in ADDRESSES))
        return self

    def __exit__(self, *error):
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        for name in self.names:
            self.ip("netns", "del", name, check=False)

    def launcher(self, ranks):
        """The words before the program: on the first host, run_mpi.sh with the host file."""
        options = ["--mca", "plm_rsh_agent", self.agent, "--mca", "mpi_yield_when_idle", "1", "--mca", "btl_tcp_if_include", NETWORK,
                   "--mca", "oob_tcp_if_include", NETWORK]
        return ["ip", "netns", "exec", self.names[0], "unshare", "--uts", "sh", "-c", "hostname host0; exec \"$@\"", "sh",
                str(runs.SOURCE / "launch/run_mpi.sh"), "-n", str(ranks), "--hostfile", str(self.host_file), *map(str, options)]

    def cut(self):
        self.ip("-n", self.names[0], "link", "set", "host0", "down")

    def pids(self):
        found = []
        for name in self.names:
            found += [int(word) for word in self.ip("netns", "pids", name, check=False).stdout.split()]
        return found

    def wait_until_empty(self, seconds):
        """What still runs there after so long."""
        end = time.monotonic() + seconds
        while self.pids() and time.monotonic() < end:
            time.sleep(0.1)
        return self.pids()


def host_file(lab, options):
    with TwoHosts(lab.folder) as hosts:
        one = lab.train("one", CONFIG, OVERRIDES)
        run = lab.start("two-hosts", CONFIG, OVERRIDES, 4, hosts.launcher(4))
        if run.wait() != 0:
            runs.fail("four ranks on two hosts", run.lines)
        runs.expect_equal(lab, "four ranks on two hosts, by a host file, and one rank", one, lab.folder / "two-hosts")
        left = hosts.wait_until_empty(10)
        if left:
            runs.fail(f"processes {left} are left on the hosts")


if __name__ == "__main__":
    runs.main({"host_file": host_file})
