// Loaded ahead of every script of package.json (node --import): a Node that cannot run TypeScript would
// stop at "Unknown file extension .ts", which says nothing of what to do. Plain JavaScript for that reason.
if (!process.features.typescript) {
  console.error(
    `hlb-gpt needs Node 22.18 or newer, and this is Node ${process.versions.node}. ` +
      `"npm install" brings Node 26 along, unless optional packages are left out (--omit=optional).`,
  )
  process.exit(1)
}
