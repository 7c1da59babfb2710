# Switches with a runner alive: to other settings and another package, to a system without Stratavore, and back.
module: {
  name = "stratavore-switch";

  nodes.machine =
    {
      config,
      lib,
      pkgs,
      ...
    }:
    let
      old = config.services.stratavore.package;
      # The same programs at another place.
      again = pkgs.runCommand "stratavore-again" { } ''
        cp -r ${old} $out
        chmod -R u+w $out
        grep -rIlF ${old} $out | xargs sed -i "s|${old}|$out|g"
      '';
    in
    {
      imports = [ module ];
      # Machines of tests have none without it.
      system.switch.enable = true;
      services.stratavore.enable = true;
      users.users.alice = {
        isNormalUser = true;
        extraGroups = [ "stratavore-users" ];
      };
      specialisation = {
        reloaded.configuration.services.stratavore.agent.settings.ceilings.tasks_max = 500;
        changed.configuration.services.stratavore = {
          package = lib.mkForce again;
          settings.host.max_runners = 7;
        };
        removed.configuration.services.stratavore.enable = lib.mkForce false;
      };
    };

  testScript = ''
    def switch(to):
        print(machine.succeed(f"{to}/bin/switch-to-configuration test 2>&1"))

    def main(unit):
        return machine.succeed(f"systemctl show --value -p MainPID {unit}").strip()

    def program(pid):
        return machine.succeed(f"readlink /proc/{pid}/exe").strip()

    def alive():
        assert machine.succeed("pgrep -u alice -x sleep").strip() == sleep, "the runner was touched"
        assert machine.succeed("pgrep -x stratavore-shim").strip() == shim, "its shim was touched"

    machine.wait_for_unit("stratavored.service")
    base = machine.succeed("readlink -f /run/current-system").strip()
    machine.succeed("stratavorectl project create web")
    id = machine.succeed("runuser -u alice -- stratavorectl run web -- sleep 100000").strip()
    sleep = machine.succeed("pgrep -u alice -x sleep").strip()
    shim = machine.succeed("pgrep -x stratavore-shim").strip()
    old = program(shim)

    with subtest("bounds are reloaded"):
        agent, daemon = main("stratavore-agent"), main("stratavored")
        switch(f"{base}/specialisation/reloaded")
        alive()
        assert (main("stratavore-agent"), main("stratavored")) == (agent, daemon), "something was restarted"
        machine.fail("runuser -u alice -- stratavorectl run --tasks-max=501 web -- true")

    with subtest("programs and settings are replaced, runners keep theirs"):
        switch(f"{base}/specialisation/changed")
        alive()
        machine.wait_until_succeeds(f"stratavorectl show {id}")
        for unit in "stratavored", "stratavore-agent":
            assert "stratavore-again" in program(main(unit)), f"{unit} still runs the old program"
        machine.succeed("stratavored --print-config | grep -qx 'max_runners = 7'")
        assert program(shim) == old

    with subtest("what the runner runs is no garbage"):
        roots = machine.succeed("nix-store --gc --print-roots")
        store_path = "/".join(old.split("/")[:4])
        assert any(f"/proc/{shim}/" in line and store_path in line for line in roots.splitlines()) or any(
            line.endswith(f"-> {store_path}") and "{" in line for line in roots.splitlines()
        ), roots

    with subtest("without the module runners go on"):
        switch(f"{base}/specialisation/removed")
        alive()
        for unit in "stratavored.service", "stratavore-agent.service", "stratavore-agent.socket":
            machine.fail(f"systemctl is-active {unit}")

    with subtest("and are adopted when it is back"):
        switch(base)
        alive()
        machine.wait_until_succeeds(f"stratavorectl show -o json {id} | grep -q running")
        machine.succeed(f"stratavorectl stop {id}")
        machine.wait_until_succeeds(f"stratavorectl show -o json {id} | grep -q '\"stopped\"'")
  '';
}
