# The programs and all that is installed with them.
{
  lib,
  rustPlatform,
  stdenv,
  coreutils,
  # What `--version` tells beside the version; null = nothing.
  commit ? null,
  date ? null,
}:
rustPlatform.buildRustPackage {
  pname = "stratavore";
  version = lib.trim (builtins.readFile ../VERSION);

  # What the build reads and nothing else: a changed README builds nothing anew.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../Makefile
      ../VERSION
      ../benches
      ../build.rs
      ../migrations
      ../src
      ../systemd
      # Cargo.toml names them.
      (lib.fileset.difference ../tests ../tests/nix)
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  # build.rs reads them.
  env =
    lib.optionalAttrs (commit != null) { STRATAVORE_COMMIT = commit; }
    // lib.optionalAttrs (date != null) { SOURCE_DATE_EPOCH = toString date; };

  # They want hosts that boot, a Postgres and a RabbitMQ of their own: `make test`, and the VM tests of the flake.
  doCheck = false;

  installPhase = ''
    runHook preInstall
    make install PREFIX=$out BUILT=target/${stdenv.hostPlatform.rust.cargoShortTarget}/release
    # systemd looks for a program without a path beside its own ones, where NixOS has no kill.
    substituteInPlace $out/lib/systemd/system/stratavored.service $out/lib/systemd/system/stratavore-agent.service \
      $out/lib/systemd/user/stratavored.service --replace-fail ExecReload=kill ExecReload=${coreutils}/bin/kill
    runHook postInstall
  '';

  doInstallCheck = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  installCheckPhase = ''
    runHook preInstallCheck
    $out/bin/stratavored --version
    touch empty.toml
    $out/bin/stratavored --check-config empty.toml
    $out/libexec/stratavore/stratavore-agent --check-config empty.toml
    if grep -rn '/usr/bin/stratavore\|/usr/libexec/stratavore' $out/lib $out/share; then exit 1; fi
    runHook postInstallCheck
  '';

  meta = {
    description = "Host agent that runs long commands as systemd scopes which outlive its restarts";
    license = [
      lib.licenses.asl20
      lib.licenses.mit
    ];
    mainProgram = "stratavorectl";
    platforms = lib.platforms.linux;
  };
}
