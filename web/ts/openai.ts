/** The requests and responses of OpenAI's API that a model answers. Unknown fields of a request are refused by name. */

export interface ToolCall {
  id: string;
  type: 'function';
  function: { name: string; arguments: string };
}

export type TextContent = string | { type: 'text'; text: string }[];

export type ChatMessage =
  | { role: 'system' | 'developer' | 'user'; content: TextContent; name?: string }
  | { role: 'assistant'; content?: TextContent | null; tool_calls?: ToolCall[]; reasoning_content?: string }
  | { role: 'tool'; content: TextContent; tool_call_id: string };

export interface Tool {
  type: 'function';
  function: { name: string; description?: string; parameters?: object; strict?: boolean };
}

export type ResponseFormat =
  | { type: 'text' }
  | { type: 'json_object' }
  | { type: 'json_schema'; json_schema: { name?: string; description?: string; schema: object; strict?: boolean } };

/** What chats and completions have in common. */
export interface SamplingRequest {
  /** The model's name; if given it must be the loaded one's. */
  model?: string;
  max_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  xtc_probability?: number | null;
  xtc_threshold?: number | null;
  mirostat?: 0 | 1 | 2 | null;
  mirostat_tau?: number | null;
  mirostat_eta?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  repetition_penalty?: number | null;
  logit_bias?: Record<string, number> | null;
  seed?: number | null;
  stop?: string | string[] | null;
  n?: number | null;
  stream_options?: { include_usage?: boolean } | null;
}

export interface ChatRequest extends SamplingRequest {
  messages: ChatMessage[];
  stream?: boolean | null;
  max_completion_tokens?: number | null;
  tools?: Tool[];
  tool_choice?: 'none' | 'auto' | 'required' | { type: 'function'; function: { name: string } };
  response_format?: ResponseFormat;
  logprobs?: boolean | null;
  top_logprobs?: number | null;
  reasoning_effort?: 'none' | 'minimal' | 'low' | 'medium' | 'high' | 'xhigh' | null;
  chat_template_kwargs?: Record<string, unknown>;
}

export interface CompletionRequest extends SamplingRequest {
  prompt: string | string[] | number[] | number[][];
  stream?: boolean | null;
  echo?: boolean;
  logprobs?: number | null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
  completion_tokens_details?: { reasoning_tokens: number };
}

/** Times of a request, in llama.cpp's form. */
export interface Timings {
  cache_n: number;
  prompt_n: number;
  prompt_ms: number;
  prompt_per_second: number;
  predicted_n: number;
  predicted_ms: number;
  predicted_per_second: number;
  /** Draft tokens of prompt lookup, where there were any. */
  draft_n?: number;
  draft_n_accepted?: number;
}

export type FinishReason = 'stop' | 'length' | 'tool_calls';

export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[] | null;
  top_logprobs: { token: string; logprob: number; bytes: number[] | null }[];
}

export interface ChatCompletion {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: {
    index: number;
    message: {
      role: 'assistant';
      content: string | null;
      reasoning_content?: string;
      tool_calls?: ToolCall[];
    };
    logprobs?: { content: TokenLogprob[] } | null;
    finish_reason: FinishReason;
  }[];
  usage: Usage;
  timings?: Timings;
}

export interface ChatCompletionChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: {
    index: number;
    delta: {
      role?: 'assistant';
      content?: string | null;
      reasoning_content?: string;
      tool_calls?: { index: number; id?: string; type?: 'function'; function: { name?: string; arguments?: string } }[];
    };
    logprobs?: { content: TokenLogprob[] } | null;
    finish_reason: FinishReason | null;
  }[];
  usage?: Usage | null;
  timings?: Timings;
}

/** A completion, or a chunk of one. */
export interface Completion {
  id: string;
  object: 'text_completion';
  created: number;
  model: string;
  choices: { index: number; text: string; logprobs?: unknown; finish_reason: FinishReason | null }[];
  usage?: Usage | null;
  timings?: Timings;
}

export interface EmbeddingRequest {
  model?: string;
  input: string | string[] | number[] | number[][];
  encoding_format?: 'float' | 'base64';
  dimensions?: number;
}

export interface EmbeddingResponse {
  object: 'list';
  model: string;
  /** With `encoding_format: 'base64'`, an embedding is a text. */
  data: { object: 'embedding'; index: number; embedding: number[] | string }[];
  usage: { prompt_tokens: number; total_tokens: number };
}
