//! `neargate run`: one task without a server, as transparent as the program itself.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::leaks::Snapshot;
use neargate_tests::process::{code, signal, wait};
use rustix::process::Signal;
use serde_json::Value;

use crate::suite::{Case, Needs};
use crate::{Cli, assert_refused, component, module};

pub(crate) const CASES: &[Case] = &[
    ("run/wasm_prints", Needs::Wasm, wasm_prints),
    ("run/wasm_exit_codes", Needs::Wasm, wasm_exit_codes),
    ("run/wasm_streams_are_byte_exact", Needs::Wasm, wasm_streams_are_byte_exact),
    ("run/wasm_sees_only_what_it_is_given", Needs::Wasm, wasm_sees_only_what_it_is_given),
    ("run/wasm_directories", Needs::Wasm, wasm_directories),
    ("run/timeout_is_124", Needs::Wasm, timeout_is_124),
    ("run/memory_is_limited", Needs::Wasm, memory_is_limited),
    ("run/json_says_how_it_ended", Needs::Wasm, json_says_how_it_ended),
    ("run/quiet_adds_nothing", Needs::Wasm, quiet_adds_nothing),
    ("run/signals_stop_the_task", Needs::Wasm, signals_stop_the_task),
    ("run/refuses_what_is_no_image", Needs::Nothing, refuses_what_is_no_image),
    ("run/container_exit_codes", Needs::Root, container_exit_codes),
    ("run/container_streams_are_byte_exact", Needs::Root, container_streams_are_byte_exact),
    ("run/container_is_contained", Needs::Root, container_is_contained),
    ("run/container_out_of_memory_is_137", Needs::Root, container_out_of_memory_is_137),
    ("run/container_storage_is_limited", Needs::Root, container_storage_is_limited),
    ("run/container_stops_on_sigterm", Needs::Root, container_stops_on_sigterm),
    ("run/container_user_and_directories", Needs::Root, container_user_and_directories),
    ("run/leaves_nothing", Needs::RootAndWasm, leaves_nothing),
];

fn wasm_prints() -> Result<()> {
    let cli = Cli::new()?;
    for image in [module(), component()] {
        let finished = cli.run(&[&image, "--", "echo", "hello", "world"])?;
        assert_eq!((finished.text().as_str(), finished.code), ("hello world\n", 0), "{}", finished.stderr);
        let finished = cli.run(&["--quiet", &image, "--", "error", "to stderr"])?;
        assert_eq!((finished.text().as_str(), finished.stderr.as_str()), ("", "to stderr\n"));
    }
    Ok(())
}

fn wasm_exit_codes() -> Result<()> {
    let cli = Cli::new()?;
    let check = |arguments: &[&str], expect: i32| -> Result<()> {
        for image in [module(), component()] {
            let all = [&[image.as_str(), "--"], arguments].concat();
            let finished = cli.run(&all)?;
            assert_eq!(finished.code, expect, "{arguments:?} of {image}: {}", finished.stderr);
        }
        Ok(())
    };
    check(&["exit", "0"], 0)?;
    // A trap is the guest's SIGABRT, which wasmtime also reports as 134.
    check(&["trap"], 134)?;
    check(&["recurse"], 134)?;
    // `wasi:cli/exit` of WASI 0.2 knows success and failure only; preview 1 has numbers.
    let finished = cli.run(&[&module(), "--", "exit", "3"])?;
    assert_eq!(finished.code, 3, "{}", finished.stderr);
    let finished = cli.run(&[&component(), "--", "exit", "3"])?;
    assert_ne!(finished.code, 0, "{}", finished.stderr);
    Ok(())
}

fn every_byte(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 256) as u8).collect()
}

fn wasm_streams_are_byte_exact() -> Result<()> {
    let cli = Cli::new()?;
    for image in [module(), component()] {
        for length in [0, 1, 65_536, 3_000_001] {
            let input = every_byte(length);
            let finished = cli.run_with(&["--quiet", &image, "--", "cat"], &input)?;
            assert_eq!(finished.code, 0, "{}", finished.stderr);
            assert!(finished.stdout == input, "{length} bytes became {} others", finished.stdout.len());
        }
    }
    Ok(())
}

fn wasm_sees_only_what_it_is_given() -> Result<()> {
    let cli = Cli::new()?;
    let mut command = cli.run_command(&["--env", "A=b=c", "--env", "EMPTY=", &module(), "--", "vars"]);
    command.env("SECRET_OF_THE_HOST", "x");
    let finished = neargate_tests::process::run(&mut command, b"", crate::LIMIT)?;
    let text = finished.text();
    let mut vars: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("ECS_") && !line.starts_with("AWS_")).collect();
    vars.sort_unstable();
    assert_eq!(vars, ["A=b=c", "EMPTY="]);
    let finished = cli.run(&[&module(), "--", "read", "/etc/hostname"])?;
    assert_ne!(finished.code, 0, "the guest read a file of the host");
    Ok(())
}

fn wasm_directories() -> Result<()> {
    let cli = Cli::new()?;
    let host = cli.path("shared");
    fs::create_dir(&host)?;
    fs::write(format!("{host}/in"), "content")?;
    fs::write(cli.path("outside"), "not for the guest")?;
    let writable = format!("{host}:/data");
    let finished =
        cli.run(&["--dir", &writable, &module(), "--", "write", "/data/out", "made by the guest"])?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(fs::read_to_string(format!("{host}/out"))?, "made by the guest");
    let read_only = format!("{host}:/data:ro");
    let finished = cli.run(&["--dir", &read_only, &module(), "--", "read", "/data/in"])?;
    assert_eq!((finished.text().as_str(), finished.code), ("content", 0), "{}", finished.stderr);
    for forbidden in [&["write", "/data/out", "again"][..], &["read", "/data/../outside"]] {
        let finished = cli.run(&[&["--dir", read_only.as_str(), &module(), "--"], forbidden].concat())?;
        assert_ne!(finished.code, 0, "{forbidden:?} was allowed");
    }
    assert_eq!(fs::read_to_string(format!("{host}/out"))?, "made by the guest");
    let finished = cli.run(&["--dir", &format!("{}:/data", cli.path("absent")), &module(), "--", "echo"])?;
    assert_refused(&finished, 125, &["absent"]);
    Ok(())
}

fn timeout_is_124() -> Result<()> {
    let cli = Cli::new()?;
    for image in [module(), component()] {
        let finished = cli.run(&["--timeout", "1", &image, "--", "spin"])?;
        assert_eq!(finished.code, 124, "{}", finished.stderr);
        assert!(finished.elapsed < Duration::from_secs(10), "it took {:?}", finished.elapsed);
    }
    let finished = cli.run(&["--timeout", "30", &module(), "--", "exit", "0"])?;
    assert_eq!(finished.code, 0);
    assert!(finished.elapsed < Duration::from_secs(20), "a timeout that did not strike was waited for");
    Ok(())
}

fn memory_is_limited() -> Result<()> {
    let cli = Cli::new()?;
    for image in [module(), component()] {
        let finished = cli.run(&["--memory", "64", &image, "--", "grow"])?;
        assert!([134, 137].contains(&finished.code), "{}: {}", finished.code, finished.stderr);
    }
    Ok(())
}

fn json_says_how_it_ended() -> Result<()> {
    let cli = Cli::new()?;
    let finished = cli.run(&["--json", &module(), "--", "exit", "3"])?;
    assert_eq!(finished.code, 3);
    let last = finished.text().lines().chain(finished.stderr.lines()).last().unwrap_or_default().to_owned();
    let record: Value = serde_json::from_str(&last).with_context(|| format!("read {last:?}"))?;
    let code = record.get("exitCode").or_else(|| record.get("exit_code")).or_else(|| record.get("exit"));
    assert_eq!(code, Some(&Value::from(3)), "{record}");
    Ok(())
}

fn quiet_adds_nothing() -> Result<()> {
    let cli = Cli::new()?;
    let finished = cli.run(&["--quiet", &module(), "--", "exit", "3"])?;
    assert_eq!((finished.text().as_str(), finished.stderr.as_str()), ("", ""));
    Ok(())
}

fn signals_stop_the_task() -> Result<()> {
    let cli = Cli::new()?;
    for sent in [Signal::INT, Signal::TERM] {
        let mut command = cli.run_command(&["--quiet", &module(), "--", "tick", "60000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        assert_eq!(line, "started\n");
        signal(&child, sent)?;
        let status = wait(&mut child, Duration::from_secs(40))?.context("the signal did not end it")?;
        // Either signal stops the task as StopTask does: with SIGTERM first.
        assert!([143, 137].contains(&code(status)), "{sent:?} gave {status}");
    }
    Ok(())
}

fn refuses_what_is_no_image() -> Result<()> {
    let cli = Cli::new()?;
    let check = |name: &str, content: Option<&[u8]>, mentions: &[&str]| -> Result<()> {
        let file = cli.path(name);
        if let Some(content) = content {
            fs::write(&file, content)?;
        }
        assert_refused(&cli.run(&[&file])?, 125, mentions);
        Ok(())
    };
    check("absent.wasm", None, &["absent.wasm"])?;
    check("empty.wasm", Some(b""), &["empty.wasm"])?;
    check("text.wasm", Some(b"(module)"), &["text.wasm"])?;
    check("elf.wasm", Some(b"\x7fELF\x02\x01\x01\0"), &["elf.wasm"])?;
    check("cut.wasm", Some(b"\0asm\x01\0\0\0\x01"), &["WebAssembly"])?;
    check("future.wasm", Some(b"\0asm\x7f\0\0\0"), &[])?;
    assert_refused(&cli.run(&["no-such-image-here"])?, 125, &["no-such-image-here"]);
    assert_refused(&cli.run(&["Not A Reference"])?, 125, &["Not A Reference"]);
    Ok(())
}

fn container_exit_codes() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let check = |arguments: &[&str], expect: i32| -> Result<()> {
        let finished = cli.run(arguments)?;
        assert_eq!(finished.code, expect, "{arguments:?}: {}", finished.stderr);
        Ok(())
    };
    check(&["busybox", "--", "true"], 0)?;
    check(&["busybox", "--", "sh", "-c", "exit 3"], 3)?;
    check(&["busybox", "--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137)?;
    check(&["busybox", "--", "sh", "-c", "sh -c 'kill -15 $$'; exit $?"], 143)?;
    check(&["--timeout", "1", "busybox", "--", "sleep", "60"], 124)?;
    check(&["--entrypoint", "/etc/passwd", "busybox"], 126)?;
    check(&["--entrypoint", "/bin", "busybox"], 126)?;
    check(&["--entrypoint", "/no/such/program", "busybox"], 127)?;
    check(&["--entrypoint", "no-such-program", "busybox"], 127)?;
    Ok(())
}

fn container_streams_are_byte_exact() -> Result<()> {
    let cli = Cli::with_busybox()?;
    for length in [0, 1, 65_536, 3_000_001] {
        let input = every_byte(length);
        let finished = cli.run_with(&["--quiet", "busybox", "--", "cat"], &input)?;
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert!(finished.stdout == input, "{length} bytes became {} others", finished.stdout.len());
    }
    Ok(())
}

fn container_is_contained() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let check = |script: &str, expect: &str| -> Result<()> {
        let finished = cli.run(&["--quiet", "busybox", "--", "sh", "-c", script])?;
        assert_eq!(finished.text().trim(), expect, "{script}: {}", finished.stderr);
        Ok(())
    };
    check("echo $$", "1")?;
    check("grep NoNewPrivs /proc/self/status | sed 's/[^01]//g'", "1")?;
    check("grep ^Seccomp: /proc/self/status | sed 's/[^0-9]//g'", "2")?;
    check("ls /sys/class/net 2>/dev/null | grep -v '^lo$' | grep -v '^eth0$'", "")?;
    check("mount -t tmpfs none /tmp 2>/dev/null && echo mounted", "")?;
    check("dd if=/dev/zero of=/proc/sysrq-trigger count=1 2>/dev/null && echo wrote", "")?;
    check("cat /proc/kcore 2>/dev/null | head -c 1 | wc -c", "0")?;
    check("ls /root /work /var/lib 2>/dev/null | wc -l", "0")?;
    Ok(())
}

fn container_out_of_memory_is_137() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let finished = cli.run(&["--memory", "32", "busybox", "--", "tail", "/dev/zero"])?;
    assert_eq!(finished.code, 137, "{}", finished.stderr);
    assert!(finished.stderr.contains("memory"), "the reason is not said: {:?}", finished.stderr);
    Ok(())
}

fn container_storage_is_limited() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let script = "dd if=/dev/zero of=/big bs=1048576 count=1100 2>/dev/null; sleep 60";
    let finished = cli.run(&["--storage", "1", "busybox", "--", "sh", "-c", script])?;
    assert_eq!(finished.code, 137, "{}", finished.stderr);
    assert!(
        finished.stderr.contains("ephemeral storage of 1 GiB"),
        "the reason is not said: {:?}",
        finished.stderr
    );
    Ok(())
}

fn container_stops_on_sigterm() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let script = "trap 'echo caught; exit 143' TERM; echo started; while :; do sleep 1 & wait $!; done";
    let mut command = cli.run_command(&["--quiet", "busybox", "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    assert_eq!(lines.next().transpose()?.as_deref(), Some("started"));
    signal(&child, Signal::TERM)?;
    assert_eq!(lines.next().transpose()?.as_deref(), Some("caught"));
    let status = wait(&mut child, Duration::from_secs(40))?.context("the signal did not end it")?;
    assert_eq!(code(status), 143);
    Ok(())
}

fn container_user_and_directories() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let finished = cli.run(&["--quiet", "--user", "user", "busybox", "--", "id", "-u"])?;
    assert_eq!(finished.text().trim(), "1000", "{}", finished.stderr);
    let finished = cli.run(&["--quiet", "--user", "4294967296", "busybox", "--", "id", "-u"])?;
    assert_ne!(finished.code, 0, "an overflowing user id became {:?}", finished.text());
    let host = cli.path("shared");
    fs::create_dir(&host)?;
    fs::write(format!("{host}/in"), "content")?;
    let read_only = format!("{host}:/data:ro");
    let script = "cat /data/in; touch /data/out 2>/dev/null && echo wrote";
    let finished = cli.run(&["--quiet", "--dir", &read_only, "busybox", "--", "sh", "-c", script])?;
    assert_eq!(finished.text(), "content", "{}", finished.stderr);
    Ok(())
}

fn leaves_nothing() -> Result<()> {
    let cli = Cli::with_busybox()?;
    let before = Snapshot::take();
    let module = module();
    for arguments in [
        &[module.as_str(), "--", "exit", "3"][..],
        &["busybox", "--", "true"],
        &["--timeout", "1", "busybox", "--", "sh", "-c", "sleep 100 & sleep 100"],
        &["--entrypoint", "/no/such/program", "busybox"],
    ] {
        cli.run(arguments)?;
    }
    // Other cases run at the same time; what they use is gone soon, what is leaked is not.
    let settled = before.settle(Duration::from_secs(60));
    assert!(settled.is_ok(), "left: {settled:?}");
    Ok(())
}
