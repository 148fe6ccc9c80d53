//! Asks a model a question: `cargo run --release --example chat -- models/demo-q4_k_m.gguf "Who are you?"`.

use std::io::Write;

use ferrum_wgpu::Chat;

async fn ask(path: &str, question: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut chat = Chat::open(path).await?;
    let mut reply = chat.say(question);
    while let Some(text) = reply.next().await? {
        print!("{text}");
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(path), Some(question)) => pollster::block_on(ask(&path, &question)),
        _ => Err("usage: chat MODEL QUESTION".into()),
    }
}
