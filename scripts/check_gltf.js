// Khronos's glTF validator on .glb files: one JSON object per file, exit status 1 if any has errors or warnings.
// Needs node and, once:  npm install gltf-validator   (anywhere; say where with NODE_PATH=<folder>/node_modules)
// Usage:  node scripts/check_gltf.js model.glb ...     (without files: is the validator there?)
const fs = require("fs");
const { createRequire } = require("module");
const path = require("path");

// Beside this script, in the working folder, or wherever NODE_PATH points.
const load = () => {
  try {
    return createRequire(path.join(process.cwd(), "package.json"))("gltf-validator");
  } catch {
    return require("gltf-validator");
  }
};

let validator;
try {
  validator = load();
} catch {
  console.error("gltf-validator is not installed: npm install gltf-validator");
  process.exit(2);
}

(async () => {
  let clean = true;
  for (const file of process.argv.slice(2)) {
    const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(file)));
    const { numErrors: errors, numWarnings: warnings, messages } = report.issues;
    clean = clean && errors === 0 && warnings === 0;
    const found = messages.filter((m) => m.severity < 2).map((m) => `${m.code} ${m.pointer}: ${m.message}`);
    const { totalVertexCount: vertices, totalTriangleCount: triangles } = report.info;
    console.log(JSON.stringify({ file, errors, warnings, vertices, triangles, messages: found }));
  }
  process.exit(clean ? 0 : 1);
})();
