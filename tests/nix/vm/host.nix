# One host, with nothing and with a database, a broker and a Prometheus of its own.
module: {
  name = "stratavore-host";

  nodes.machine = {
    imports = [ module ];
    services.stratavore = {
      enable = true;
      settings.host.max_runners = 5;
      agent.settings.ceilings.memory_max = "1G";
      access = {
        operators = [ "olga" ];
        projects.web.viewers = [ "@watchers" ];
      };
      projects.nightly.max_runners = 3;
      budgets."project:nightly".day.limit = "2M";
    };
    users.groups.watchers = { };
    users.users = {
      alice = {
        isNormalUser = true;
        extraGroups = [ "stratavore-users" ];
      };
      olga.isNormalUser = true;
      vic = {
        isNormalUser = true;
        extraGroups = [ "watchers" ];
      };
      bob.isNormalUser = true;
    };
  };

  nodes.local = {
    imports = [ module ];
    services.stratavore = {
      enable = true;
      settings.events.unroutable = "accept";
      store.createLocally = true;
      events.createLocally = true;
      prometheus.scrape = true;
    };
    services.prometheus.enable = true;
    users.users.alice = {
      isNormalUser = true;
      extraGroups = [ "stratavore-users" ];
    };
  };

  testScript = ''
    import json

    def of(user, command, code=0, on=machine):
        status, out = on.execute(f"runuser -u {user} -- stratavorectl --no-ask-password {command}")
        assert status == code, f"{user}: {command}: status {status}: {out}"
        return out.strip()

    def shown(id, on=machine):
        return json.loads(of("root", f"show -o json {id}", on=on))

    start_all()
    machine.wait_for_unit("stratavored.service")

    with subtest("doctor finds no fault"):
        findings = json.loads(machine.execute("stratavorectl doctor -o json")[1])
        faults = [f for f in findings if f["level"] == "problem"]
        assert faults == [], faults

    with subtest("who may do what"):
        of("root", "project create web")
        of("alice", "project create mine", code=4)
        id = of("alice", "run --name agent web -- sleep 100000")
        of("bob", "run web -- true", code=4)
        of("vic", "run web -- true", code=4)
        of("olga", "freeze agent")
        of("olga", "thaw agent")
        of("olga", "run --uid=alice web -- true", code=4)
        assert json.loads(of("vic", f"show -o json {id}"))["command"] == ["sleep", "100000"]
        assert "100000" not in of("bob", f"show -o json {id}")

    with subtest("what is declared is there, and stays so"):
        machine.wait_for_unit("stratavore-apply.service")
        of("alice", "diff")
        of("root", "project set nightly --max-runners 9")
        of("alice", "diff", code=6)
        machine.succeed("systemctl restart stratavore-apply")
        of("alice", "diff")

    with subtest("limits hold"):
        hog = of("alice", "run --memory-max=64M --memory-swap-max=0 web -- tail /dev/zero")
        machine.wait_until_succeeds(f"stratavorectl show -o json {hog} | grep -q ended")
        assert shown(hog)["exit"]["cause"] == "oom-kill", shown(hog)
        of("alice", "run --memory-max=2G web -- true", code=1)

    with subtest("a runner outlives restarts and kills"):
        sleep = machine.succeed("pgrep -u alice -x sleep").strip()
        machine.succeed("systemctl restart stratavored stratavore-agent")
        machine.succeed("systemctl reload stratavored stratavore-agent")
        machine.succeed("systemctl kill --signal=KILL stratavored stratavore-agent")
        machine.wait_until_succeeds("stratavorectl list | grep -q agent")
        assert machine.succeed("pgrep -u alice -x sleep").strip() == sleep

    with subtest("the journal explains itself"):
        machine.succeed("journalctl -x -u stratavored | grep -q 'knows what runs on this host'")

    with subtest("a reboot is told"):
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("stratavored.service")
        machine.wait_until_succeeds(f"stratavorectl show -o json {id} | grep -q host-shutdown")

    with subtest("database and broker of its own"):
        local.wait_for_unit("stratavored.service")
        manager = "busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager"
        for what in "Store", "Broker":
            local.wait_until_succeeds(f"{manager} {what} | grep -qx 's \"ok\"'")
        of("root", "project create web", on=local)
        of("alice", "run --wait web -- true", on=local)
        local.succeed("runuser -u postgres -- psql -d stratavore -tAc 'SELECT 1'")
        local.succeed("runuser -u rabbitmq -- rabbitmqctl --quiet list_exchanges | grep -q '^stratavore.events'")
        local.fail("runuser -u alice -- cat /var/lib/stratavore-amqp/password")
        local.wait_until_succeeds("curl -sf 'http://localhost:9090/api/v1/query?query=stratavore_store_up' | grep -q '\"value\":.*\"1\"'")
        local.succeed("systemctl restart postgresql rabbitmq")
        for what in "Store", "Broker":
            local.wait_until_succeeds(f"{manager} {what} | grep -qx 's \"ok\"'")
  '';
}
