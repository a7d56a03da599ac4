//! A program of WASI 0.3.

wasip3::cli::command::export!(Program);

struct Program;

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        let arguments = wasip3::cli::environment::get_arguments();
        let (mut output, bytes) = wasip3::wit_stream::new();
        let write = async {
            let rest = output.write_all(format!("third {:?}\n", &arguments[1..]).into_bytes()).await;
            assert!(rest.is_empty());
            drop(output);
        };
        let (written, ()) =
            futures::join!(async { wasip3::cli::stdout::write_via_stream(bytes).await }, write);
        written.map_err(drop)?;
        if arguments.iter().any(|argument| argument == "fail") { Err(()) } else { Ok(()) }
    }
}
