//! Answers a question: `cargo run --release --example generate -- models/demo-q4_k_m.gguf "Who are you?"`.

use ferrum_wgpu::{
    Adapter, ChatTemplate, Device, Engine, EngineOptions, GenerateOptions, Gguf, Message, Model, RenderOptions,
    SamplingOptions, Tokenizer,
};

async fn generate(path: &str, question: &str) -> Result<(), Box<dyn std::error::Error>> {
    let gguf = Gguf::open(path)?;
    let device = Device::new(&Adapter::find(None).await?).await?;
    let model = Model::load(&device, &gguf, |_sent, _total| ()).await?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let template = ChatTemplate::from_metadata(gguf.metadata())?;
    let prompt = template.render(&[Message::user(question)], &RenderOptions::default())?;
    let options = GenerateOptions::default()
        .sampling(SamplingOptions::from_metadata(gguf.metadata())?)
        .stop(tokenizer.stop_ids().to_vec());
    let engine = Engine::new(&model, &EngineOptions::default()).await?;
    let mut session = engine.session();
    let mut text = tokenizer.decode_stream();
    let mut reply = session.generate(&tokenizer.encode_prompt(&prompt)?, &options)?;
    while let Some(token) = reply.next().await? {
        print!("{}", text.push(token)?.unwrap_or_default());
    }
    println!("{}", text.finish().unwrap_or_default());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(path), Some(question)) => ferrum_wgpu::block_on(generate(&path, &question)),
        _ => Err("usage: generate MODEL QUESTION".into()),
    }
}
