// Hand meshes in 3D: decodes what the page embeds, draws it with WebGL, turns it by mouse, touch or keys. Camera frame: x right, y down, z forward.
(() => {
  "use strict";
  const byId = (name) => document.getElementById(name);
  const canvas = byId("viewer-canvas"), scenePicker = byId("viewer-scene"), handPicker = byId("viewer-hand");
  const colorPicker = byId("viewer-colors"), behind = byId("viewer-behind"), status = byId("viewer-status");
  const book = JSON.parse(byId("viewer-data").textContent);
  const options = { antialias: true, alpha: true };
  const context = () => canvas.getContext("webgl", options) || canvas.getContext("experimental-webgl", options);
  let gl = context();
  if (!gl || !book.scenes.length) return; // the message in the viewer's place stays

  const PLACE = `
    uniform mat3 turn; uniform vec3 pivot, shift; uniform vec4 lens; uniform vec2 depth;
    vec3 seen(vec3 point) { return turn * (point - pivot) + shift; }
    vec4 projected(vec3 p) {
      float z = (p.z * (depth.y + depth.x) - 2.0 * depth.x * depth.y) / (depth.y - depth.x);
      return vec4(lens.x * p.x + lens.z * p.z, -(lens.y * p.y + lens.w * p.z), z, p.z);
    }`;
  const MESH = [`attribute vec3 point, normal, color; varying vec3 vPoint, vNormal, vColor; ${PLACE}
    void main() { vPoint = seen(point); vNormal = turn * normal; vColor = color; gl_Position = projected(vPoint); }`,
  `precision mediump float; varying vec3 vPoint, vNormal, vColor; uniform float lit;
    void main() {
      float facing = abs(dot(normalize(vNormal), normalize(vPoint)));
      vec3 shaded = vColor * (0.32 + 0.68 * facing) + 0.22 * pow(facing, 12.0);
      gl_FragColor = vec4(mix(vColor, shaded, lit), 1.0);
    }`];
  const PICTURE = [`attribute vec3 point; attribute vec2 place; varying vec2 vPlace; ${PLACE}
    void main() { vPlace = place; gl_Position = projected(seen(point)); }`,
  `precision mediump float; varying vec2 vPlace; uniform sampler2D picture;
    void main() { gl_FragColor = vec4(texture2D(picture, vPlace).rgb, 1.0); }`];

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const shorts = (text) => { // little-endian, whatever this machine is
    const raw = new DataView(bytes(text).buffer), out = new Uint16Array(raw.byteLength / 2);
    for (let i = 0; i < out.length; i++) out[i] = raw.getUint16(2 * i, true);
    return out;
  };
  const faces = shorts(book.faces);
  const SIDES = ["left", "right"];

  function vertexNormals(points) {
    const normals = new Float32Array(points.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const u = [0, 1, 2].map((i) => points[b + i] - points[a + i]), v = [0, 1, 2].map((i) => points[c + i] - points[a + i]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]]; // longer for larger faces
      for (const corner of [a, b, c]) for (let i = 0; i < 3; i++) normals[corner + i] += n[i];
    }
    for (let p = 0; p < normals.length; p += 3) {
      const length = Math.hypot(normals[p], normals[p + 1], normals[p + 2]) || 1;
      for (let i = 0; i < 3; i++) normals[p + i] /= length;
    }
    return normals;
  }

  function decoded(scene) {
    const hands = scene.hands.map((hand) => {
      const points = Float32Array.from(shorts(hand.vertices), (value, i) => scene.low[i % 3] + value * scene.step[i % 3]);
      const colors = hand.colors ? Float32Array.from(bytes(hand.colors), (value) => value / 255) : null;
      const bySide = Float32Array.from(points, (_, i) => 0.22 + 0.78 * book.side_colors[hand.side][i % 3] / 255);
      return { ...hand, points, normals: vertexNormals(points), predicted: colors, bySide };
    });
    return { ...scene, hands };
  }

  // the middle of some hands and the radius of a ball around it
  function ball(hands) {
    const middle = [0, 0, 0];
    let count = 0, radius = 0;
    for (const { points } of hands) for (let i = 0; i < points.length; i++) { middle[i % 3] += points[i]; count += 1 / 3; }
    middle.forEach((sum, i) => { middle[i] = sum / count; });
    for (const { points } of hands) {
      for (let i = 0; i < points.length; i += 3) {
        radius = Math.max(radius, Math.hypot(points[i] - middle[0], points[i + 1] - middle[1], points[i + 2] - middle[2]));
      }
    }
    return { middle, radius };
  }

  let meshProgram, pictureProgram, buffers, texture;
  function program([vertex, fragment]) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    return made;
  }
  function setUp() {
    meshProgram = program(MESH);
    pictureProgram = program(PICTURE);
    buffers = { index: gl.createBuffer(), point: gl.createBuffer(), normal: gl.createBuffer(), color: gl.createBuffer(), place: gl.createBuffer() };
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers.index);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const edge of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, edge, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  }

  let scene, view;
  const shownHands = () => (handPicker.value === "all" ? scene.hands : [scene.hands[Number(handPicker.value)]]);

  function cameraView() { // what the camera saw; one hand alone is brought to the middle
    const { middle, radius } = ball(shownHands());
    const [fx, fy, cx, cy] = scene.lens, [width, height] = scene.size;
    let shift = [...middle];
    if (handPicker.value !== "all") {
      const z = Math.max(Math.min(fx, fy) * radius / (0.42 * Math.min(width, height)), 1.2 * radius);
      shift = [(width / 2 - cx) / fx * z, (height / 2 - cy) / fy * z, z];
    }
    view = { turn: [1, 0, 0, 0, 1, 0, 0, 0, 1], pivot: middle, shift, radius };
    draw();
  }

  function attribute(made, name, data, size) {
    const at = gl.getAttribLocation(made, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, gl.FLOAT, false, 0, 0);
  }
  function camera(made) {
    const [fx, fy, cx, cy] = scene.lens, [width, height] = scene.size, { turn, pivot, shift } = view;
    gl.useProgram(made);
    gl.uniformMatrix3fv(gl.getUniformLocation(made, "turn"), false, [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => turn[i]));
    gl.uniform3fv(gl.getUniformLocation(made, "pivot"), pivot);
    gl.uniform3fv(gl.getUniformLocation(made, "shift"), shift);
    gl.uniform4f(gl.getUniformLocation(made, "lens"), 2 * fx / width, 2 * fy / height, 2 * cx / width - 1, 2 * cy / height - 1);
    gl.uniform2f(gl.getUniformLocation(made, "depth"), 0.02 * shift[2], 20 * shift[2]);
  }
  function paint() {
    if (gl.isContextLost()) return;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const picture = byId(scene.image);
    if (behind.checked && picture.complete && picture.naturalWidth) {
      const [fx, fy, cx, cy] = scene.lens, [width, height] = scene.size, z = scene.picture_m;
      const corners = [[0, 0], [1, 0], [0, 1], [1, 1]];
      gl.disable(gl.DEPTH_TEST); // a picture in space, never in front of a hand
      camera(pictureProgram);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, picture);
      attribute(pictureProgram, "point", new Float32Array(corners.flatMap(([u, v]) => [(u * width - cx) / fx * z, (v * height - cy) / fy * z, z])), 3);
      attribute(pictureProgram, "place", new Float32Array(corners.flat()), 2);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    gl.enable(gl.DEPTH_TEST);
    camera(meshProgram);
    for (const hand of shownHands()) {
      const predicted = colorPicker.value === "predicted" && hand.predicted;
      gl.uniform1f(gl.getUniformLocation(meshProgram, "lit"), predicted ? 0 : 1);
      attribute(meshProgram, "point", hand.points, 3);
      attribute(meshProgram, "normal", hand.normals, 3);
      attribute(meshProgram, "color", predicted || hand.bySide, 3);
      gl.drawElements(gl.TRIANGLES, faces.length, gl.UNSIGNED_SHORT, 0);
    }
  }
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  }

  function resize() {
    const density = Math.min(window.devicePixelRatio || 1, 2), width = Math.max(1, Math.round(canvas.clientWidth * density));
    const height = Math.max(1, Math.round(width * scene.size[1] / scene.size[0]));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    draw();
  }
  function open(index) {
    scene = decoded(book.scenes[index]);
    canvas.style.aspectRatio = `${scene.size[0]} / ${scene.size[1]}`;
    canvas.style.maxWidth = `calc(85vh * ${scene.size[0] / scene.size[1]})`; // all of it fits a low window
    const names = scene.hands.map((hand, i) => new Option(`${i + 1}: ${SIDES[hand.side]}, score ${hand.score.toFixed(2)}`, String(i)));
    handPicker.replaceChildren(...(names.length > 1 ? [new Option(`all ${names.length}`, "all")] : []), ...names);
    if (names.length === 1) handPicker.replaceChildren(new Option(names[0].text.slice(3), "all"));
    status.textContent = scene.caption;
    canvas.setAttribute("aria-label", `Predicted meshes in 3D, ${scene.caption}. Arrow keys turn, plus and minus zoom, Home goes back.`);
    cameraView();
    resize();
    const picture = byId(scene.image);
    if (!picture.complete) picture.addEventListener("load", draw, { once: true });
  }

  const times = (a, b) => a.map((_, i) => [0, 1, 2].reduce((sum, k) => sum + a[3 * Math.floor(i / 3) + k] * b[3 * k + i % 3], 0));
  function turnBy(right, down) { // radians by which the side that faces the viewer goes right and down
    const [c, s] = [Math.cos(-right), Math.sin(-right)], [d, t] = [Math.cos(down), Math.sin(down)];
    view.turn = times(times([1, 0, 0, 0, d, -t, 0, t, d], [c, 0, s, 0, 1, 0, -s, 0, c]), view.turn);
    draw();
  }
  function zoomBy(factor) {
    const z = Math.min(Math.max(view.shift[2] / factor, 1.05 * view.radius), 30 * view.radius);
    view.shift = view.shift.map((value) => value * z / view.shift[2]);
    draw();
  }
  function moveBy(dx, dy) { // shares of the canvas
    view.shift[0] += dx * scene.size[0] * view.shift[2] / scene.lens[0];
    view.shift[1] += dy * scene.size[1] * view.shift[2] / scene.lens[1];
    draw();
  }

  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY], { width, height } = canvas.getBoundingClientRect();
    const dx = (now[0] - before[0]) / width, dy = (now[1] - before[1]) / height;
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    if (other) {
      const distance = (from) => Math.hypot(from[0] - other[1][0], from[1] - other[1][1]) || 1;
      zoomBy(distance(now) / distance(before));
      moveBy(dx / 2, dy / 2);
    } else if (event.shiftKey || event.buttons === 2) moveBy(dx, dy);
    else turnBy(4 * dx, 4 * dy);
    pointers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls past a viewer nobody uses
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
  }, { passive: false });
  const KEYS = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = KEYS[event.key];
    if (way && event.shiftKey) moveBy(0.03 * way[0], 0.03 * way[1]);
    else if (way) turnBy(0.12 * way[0], 0.12 * way[1]);
    else if (event.key === "+" || event.key === "=") zoomBy(1.15);
    else if (event.key === "-") zoomBy(1 / 1.15);
    else if (event.key === "Home" || event.key === "0") cameraView();
    else return;
    event.preventDefault();
  });
  byId("viewer-reset").addEventListener("click", cameraView);
  scenePicker.addEventListener("change", () => open(Number(scenePicker.value)));
  handPicker.addEventListener("change", cameraView);
  colorPicker.addEventListener("change", draw);
  behind.addEventListener("change", draw);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { setUp(); draw(); });

  setUp();
  byId("viewer").hidden = false;
  byId("viewer-message").hidden = true;
  book.scenes.forEach((each, i) => scenePicker.add(new Option(each.name, String(i))));
  open(0);
  new ResizeObserver(resize).observe(canvas);
})();
