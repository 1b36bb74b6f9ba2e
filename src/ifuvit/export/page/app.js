// Prompt to image: tokens, text path, solver steps as weighted sums (model.json has the weights), decoder.
import * as ort from "./ort.wasm.bundle.min.mjs";

const element = (id) => document.getElementById(id);
const say = (text) => { element("state").textContent = text; };
const paint = () => new Promise((done) => setTimeout(done));

async function unpacked(file) {
  const answer = await fetch(`${file}.gz`);
  if (!answer.ok) throw new Error(`${file}.gz: ${answer.status} ${answer.statusText}`);
  return new Response(answer.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// BERT's uncased WordPiece.
function tokenize(prompt, model) {
  const ids = [];
  const plain = prompt.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase();
  for (const word of plain.match(/[\p{P}\p{S}]|[^\s\p{P}\p{S}]+/gu) ?? []) {
    const pieces = [];
    for (let start = 0, end; start < word.length; start = end) {
      for (end = word.length; end > start; end--) {
        const id = model.ids.get((start ? "##" : "") + word.slice(start, end));
        if (id !== undefined) { pieces.push(id); break; }
      }
      if (end === start) { pieces.length = 0; break; }
    }
    ids.push(...(pieces.length ? pieces : [model.ids.get("[UNK]")]));
  }
  const kept = [model.ids.get("[CLS]"), ...ids.slice(0, model.max_tokens - 2), model.ids.get("[SEP]")];
  const padding = new Array(model.max_tokens - kept.length).fill(0);
  return { ids: [...kept, ...padding.map(() => model.ids.get("[PAD]"))], mask: [...kept.map(() => 1), ...padding] };
}

const whole = (values) => new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), [1, values.length]);

async function encode(session, prefix, ids, mask) {
  const all = { input_ids: whole(ids), attention_mask: whole(mask) };
  const text = await session.run(Object.fromEntries(session.inputNames.map((name) => [name, all[name]])));
  return Object.fromEntries(Object.entries(text).map(([name, value]) => [name.replace("text_", prefix), value]));
}

// Normal numbers of a seed: mulberry32, then Box and Muller. They are not those of the Python package.
function* normals(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  for (;;) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
    yield radius * Math.cos(angle);
    yield radius * Math.sin(angle);
  }
}

function initial(model, seed) {
  const [channels, height, width] = model.latents, normal = normals(seed), cells = height * width;
  const next = () => normal.next().value;
  const latents = Float32Array.from({ length: channels * cells }, next);
  if (model.start) {
    const { mean, root, signal, deviation } = model.start, z = mean.map(next);
    for (let c = 0; c < channels; c++) {
      const color = mean[c] + root[c].reduce((sum, weight, k) => sum + weight * z[k], 0);
      for (let i = c * cells; i < (c + 1) * cells; i++) latents[i] = signal * color + deviation * latents[i];
    }
  }
  return latents;
}

function draw(images, size) {
  const canvas = element("image"), cells = size * size, pixels = new ImageData(size, size);
  canvas.width = canvas.height = size;
  for (let i = 0; i < cells; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round(255 * images[c * cells + i]);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

async function generate(model, sessions, prompt, seed, scale) {
  const begun = performance.now(), { ids, mask } = tokenize(prompt, model);
  const text = { ...(await encode(sessions.text, "text_", ids, mask)), ...model.null };
  const history = [initial(model, seed)], shape = [1, ...model.latents];
  let latents = history[0];
  for (const [step, time] of model.times.entries()) {
    say(`step ${step + 1} of ${model.times.length}`);
    await paint();
    const result = await sessions.guided.run({
      ...text,
      latents: new ort.Tensor("float32", latents, shape),
      timesteps: new ort.Tensor("float32", [time], [1]),
      guidance_scale: new ort.Tensor("float32", [model.guided[step] ? scale : 1], [1]),
    });
    history.push(result.prediction.data);
    const weights = model.weights[step];
    latents = Float32Array.from(latents, (_, i) => weights.reduce((sum, weight, k) => sum + weight * history[k][i], 0));
  }
  const { images } = await sessions.decoder.run({ latents: new ort.Tensor("float32", latents, shape) });
  draw(images.data, model.image_size);
  say(`"${prompt}", seed ${seed}: ${((performance.now() - begun) / 1000).toFixed(1)} s`);
}

async function start() {
  const model = await (await fetch("model.json")).json(), sessions = {};
  element("name").textContent = model.name;
  model.ids = new Map(model.vocabulary.map((piece, id) => [piece, id]));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpacked("ort-wasm-simd-threaded.wasm");
  for (const name of ["text", "guided", "decoder"]) {
    say(`loading ${name} ...`);
    sessions[name] = await ort.InferenceSession.create(await unpacked(`${name}.onnx`));
  }
  model.null = await encode(sessions.text, "null_", model.null_input_ids, model.null_attention_mask);
  const run = async (event) => {
    event?.preventDefault();
    element("go").disabled = true;
    try {
      await generate(model, sessions, element("prompt").value, Number(element("seed").value), Number(element("scale").value));
    } catch (error) {
      say(`failed: ${error.message}`);
    }
    element("go").disabled = false;
  };
  element("form").addEventListener("submit", run);
  element("go").disabled = false;
  say("ready");
  const asked = new URLSearchParams(location.search);  // ?prompt=...&seed=... generates at once
  if (asked.has("prompt")) {
    element("prompt").value = asked.get("prompt");
    element("seed").value = asked.get("seed") ?? 0;
    await run();
  }
}

start().catch((error) => say(`failed: ${error.message}`));
