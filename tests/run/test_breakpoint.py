"""In one process a breakpoint in a client is pdb's, on the terminal of the program."""

from small_runs import SMALL


def test_pdb_stops_in_a_client_and_the_run_goes_on(tmp_path, warm):
    settings = [f"--{section}.{key}={value}" for section in ("data", "model", "cluster") for key, value in SMALL[section].items()]  # fmt: skip
    words = [*settings, "--clients=4", "--cohort=4", "--rounds=2", "--algorithm.name=breaking:Breaking"]
    typed = "p ('stopped', client.number, client.t, tuple(client.images.shape))\nc\n"
    status, out, err = warm.run(*words, "--quiet", f"--output.root={tmp_path}", typed=typed)
    assert (status, err) == (0, "")
    assert "-> return super().local_round(client, message, memory, lr)" in out
    assert "('stopped', 2, 2, (40, 3, 32, 32))" in out
