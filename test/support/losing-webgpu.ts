/**
 * In the place of the package webgpu where it is preloaded (--import): the GPU is lost at the first commands that are
 * submitted when there is a file that HLB_LOSE_AFTER in the environment names.
 */
import { existsSync } from 'node:fs'
import { registerHooks } from 'node:module'
import * as webgpu from 'webgpu'
import { losable } from './losable-gpu.ts'

registerHooks({
  resolve: (specifier, context, next) =>
    specifier === 'webgpu' ? { url: import.meta.url, shortCircuit: true } : next(specifier, context),
})

const file = process.env.HLB_LOSE_AFTER

export const { globals } = webgpu

export const create = (options: string[]): GPU =>
  losable(webgpu.create(options), (method, lose) => {
    if (method === 'submit' && file !== undefined && existsSync(file)) lose('driver reset')
  })
