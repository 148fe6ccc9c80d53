// A library for LD_PRELOAD that shows Mesa's Vulkan drivers a GPU that is not there, so that they compile for it.
// Nothing runs. GPU_STUB says which GPU:
//
//   i915:0x56a0, xe:0xe20b       the kernel driver and the PCI device
//   nouveau:0x174:0x2484         the chipset and the PCI device
//   msm:0x43051401:750           the chip and its older number
//   asahi:13:G                   the generation and the variant
//
// The device node is /dev/null. This library answers libdrm's questions about it, and its ioctl and mmap.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <xf86drm.h>
#include <drm/drm.h>
#include <drm/i915_drm.h>
#include <drm/xe_drm.h>
#include <drm/nouveau_drm.h>
#include <drm/msm_drm.h>
#include <drm/asahi_drm.h>

static char driver[16];
static uint32_t arg1, arg2;
static char letter = 'G';
static int slices = 1, subslices = 1, eus = 16;
static uint32_t next_handle = 1;
static uint64_t next_va = 0x100000000ull;
static uint64_t sizes[1 << 16];

__attribute__((constructor)) static void begin(void) {
    const char *e = getenv("GPU_STUB");
    if (!e) return;
    char copy[64];
    snprintf(copy, sizeof copy, "%s", e);
    char *a = strchr(copy, ':'), *b = NULL;
    if (a) {
        *a++ = 0;
        b = strchr(a, ':');
        if (b) *b++ = 0;
    }
    snprintf(driver, sizeof driver, "%.15s", copy);
    if (a) arg1 = strtoul(a, NULL, 0);
    if (b) {
        arg2 = strtoul(b, NULL, 0);
        letter = b[0];
    }
    if (!strcmp(driver, "i915") || !strcmp(driver, "xe")) {
        uint32_t f = arg1 & 0xff00;
        if (f == 0x5600)
            slices = 8, subslices = 4; // DG2: A770
        else if (f == 0x7d00)
            slices = 2, subslices = 4; // Meteor Lake
        else if (f == 0xe200)
            slices = 5, subslices = 4, eus = 8; // Battlemage: B580
        else if (f == 0x6400)
            slices = 2, subslices = 4, eus = 8; // Lunar Lake
        else if (f == 0x9a00 || f == 0x4600 || f == 0xa700)
            slices = 1, subslices = 6; // Tiger, Alder, Raptor Lake
        else
            slices = 1, subslices = 3, eus = 8; // Gen9
    }
}
static int is(const char *name) {
    return !strcmp(driver, name);
}
static int pci(void) {
    return is("i915") || is("xe") || is("nouveau");
}

// What libdrm says of devices.
static drmDevicePtr make(void) {
    struct all {
        drmDevice d;
        char *nodes[DRM_NODE_MAX];
        drmPciBusInfo bus;
        drmPciDeviceInfo info;
        drmPlatformBusInfo pbus;
        drmPlatformDeviceInfo pinfo;
        char name[DRM_NODE_MAX][32];
        char *compat[2];
        char c0[32];
    };
    struct all *a = calloc(1, sizeof *a);
    a->d.nodes = a->nodes;
    for (int i = 0; i < DRM_NODE_MAX; i++)
        a->nodes[i] = a->name[i];
    strcpy(a->name[DRM_NODE_RENDER], "/dev/null");
    a->d.available_nodes = 1 << DRM_NODE_RENDER;
    if (pci()) {
        a->d.bustype = DRM_BUS_PCI;
        a->d.businfo.pci = &a->bus;
        a->d.deviceinfo.pci = &a->info;
        a->bus.bus = 1;
        a->info.vendor_id = is("nouveau") ? 0x10de : 0x8086;
        a->info.device_id = is("nouveau") ? arg2 : arg1;
    } else {
        a->d.bustype = DRM_BUS_PLATFORM;
        a->d.businfo.platform = &a->pbus;
        a->d.deviceinfo.platform = &a->pinfo;
        strcpy(a->pbus.fullname, "/soc/gpu");
        snprintf(a->c0, sizeof a->c0, is("asahi") ? "apple,agx-g%ug" : "qcom,adreno-%08x", arg1);
        a->compat[0] = a->c0;
        a->pinfo.compatible = a->compat;
    }
    return &a->d;
}
int drmGetDevices2(uint32_t flags, drmDevicePtr devices[], int max) {
    if (!driver[0]) return 0;
    if (devices && max > 0) devices[0] = make();
    return 1;
}
int drmGetDevices(drmDevicePtr devices[], int max) {
    return drmGetDevices2(0, devices, max);
}
int drmGetDevice2(int fd, uint32_t flags, drmDevicePtr *device) {
    *device = make();
    return 0;
}
int drmGetDevice(int fd, drmDevicePtr *device) {
    return drmGetDevice2(fd, 0, device);
}
int drmGetDeviceFromDevId(dev_t id, uint32_t flags, drmDevicePtr *device) {
    return drmGetDevice2(0, 0, device);
}
void drmFreeDevice(drmDevicePtr *device) {
    if (device) *device = NULL;
}
void drmFreeDevices(drmDevicePtr devices[], int count) {}
drmVersionPtr drmGetVersion(int fd) {
    drmVersionPtr v = calloc(1, sizeof *v);
    v->name = strdup(driver);
    v->name_len = strlen(driver);
    v->date = strdup("20260101");
    v->desc = strdup(driver);
    v->version_major = 1;
    v->version_minor = is("nouveau") ? 4 : is("msm") ? 12 : 6;
    v->version_patchlevel = is("nouveau") ? 1 : 0;
    if (is("asahi")) v->version_major = 1, v->version_minor = 0;
    return v;
}
void drmFreeVersion(drmVersionPtr v) {}
int drmGetCap(int fd, uint64_t cap, uint64_t *value) {
    *value = cap == DRM_CAP_PRIME ? 3 : 1;
    return 0;
}
char *drmGetDeviceNameFromFd2(int fd) {
    return strdup("/dev/null");
}
char *drmGetRenderDeviceNameFromFd(int fd) {
    return strdup("/dev/null");
}

static int mine(int fd) {
    struct stat s;
    return driver[0] && fd > 2 && !fstat(fd, &s) && S_ISCHR(s.st_mode) && s.st_rdev == makedev(1, 3);
}
static uint32_t handle(uint64_t size) {
    uint32_t h = next_handle++;
    if (h < 1 << 16) sizes[h] = size;
    return h;
}
static uint64_t offset_of(uint32_t h) {
    return (uint64_t)h << 32;
}

static int i915_query(struct drm_i915_query *q) {
    struct drm_i915_query_item *items = (void *)(uintptr_t)q->items_ptr;
    for (uint32_t i = 0; i < q->num_items; i++) {
        struct drm_i915_query_item *it = &items[i];
        void *data = (void *)(uintptr_t)it->data_ptr;
        int need;
        switch (it->query_id) {
        case DRM_I915_QUERY_TOPOLOGY_INFO:
        case DRM_I915_QUERY_GEOMETRY_SUBSLICES: {
            int all = slices * subslices; // one slice, as newer kernels say it
            int ss_stride = (all + 7) / 8, eu_stride = (eus + 7) / 8;
            need = sizeof(struct drm_i915_query_topology_info) + 1 + ss_stride + all * eu_stride;
            if (!it->length) {
                it->length = need;
                break;
            }
            struct drm_i915_query_topology_info *t = data;
            memset(t, 0, need);
            t->max_slices = 1;
            t->max_subslices = all;
            t->max_eus_per_subslice = eus;
            t->subslice_offset = 1;
            t->subslice_stride = ss_stride;
            t->eu_offset = 1 + ss_stride;
            t->eu_stride = eu_stride;
            t->data[0] = 1;
            for (int s = 0; s < all; s++) {
                t->data[1 + s / 8] |= 1 << (s % 8);
                memset(&t->data[t->eu_offset + s * eu_stride], 0xff, eu_stride);
            }
            break;
        }
        case DRM_I915_QUERY_ENGINE_INFO: {
            need = sizeof(struct drm_i915_query_engine_info) + 2 * sizeof(struct drm_i915_engine_info);
            if (!it->length) {
                it->length = need;
                break;
            }
            struct drm_i915_query_engine_info *e = data;
            memset(e, 0, need);
            e->num_engines = 2;
            e->engines[0].engine.engine_class = I915_ENGINE_CLASS_RENDER;
            e->engines[1].engine.engine_class = I915_ENGINE_CLASS_COPY;
            break;
        }
        case DRM_I915_QUERY_MEMORY_REGIONS: {
            int n = (arg1 & 0xff00) == 0x5600 ? 2 : 1;
            need = sizeof(struct drm_i915_query_memory_regions) + n * sizeof(struct drm_i915_memory_region_info);
            if (!it->length) {
                it->length = need;
                break;
            }
            struct drm_i915_query_memory_regions *m = data;
            memset(m, 0, need);
            m->num_regions = n;
            m->regions[0].region.memory_class = I915_MEMORY_CLASS_SYSTEM;
            m->regions[0].probed_size = m->regions[0].unallocated_size = 16ull << 30;
            if (n > 1) {
                m->regions[1].region.memory_class = I915_MEMORY_CLASS_DEVICE;
                m->regions[1].probed_size = m->regions[1].unallocated_size = 16ull << 30;
                m->regions[1].probed_cpu_visible_size = m->regions[1].unallocated_cpu_visible_size = 16ull << 30;
            }
            break;
        }
        default: it->length = -EINVAL;
        }
    }
    return 0;
}
static int i915_param(drm_i915_getparam_t *g) {
    switch (g->param) {
    case I915_PARAM_CHIPSET_ID: *g->value = arg1; return 0;
    case I915_PARAM_REVISION: *g->value = 8; return 0;
    case I915_PARAM_CS_TIMESTAMP_FREQUENCY: *g->value = 19200000; return 0;
    case I915_PARAM_HAS_ALIASING_PPGTT: *g->value = 3; return 0;
    case I915_PARAM_SUBSLICE_TOTAL: *g->value = slices * subslices; return 0;
    case I915_PARAM_EU_TOTAL: *g->value = slices * subslices * eus; return 0;
    case I915_PARAM_SLICE_MASK: *g->value = (1 << slices) - 1; return 0;
    case I915_PARAM_SUBSLICE_MASK: *g->value = (1 << subslices) - 1; return 0;
    case I915_PARAM_MMAP_GTT_VERSION:
    case I915_PARAM_MMAP_VERSION: *g->value = 4; return 0;
    case I915_PARAM_CMD_PARSER_VERSION: *g->value = 10; return 0;
    case I915_PARAM_PERF_REVISION: *g->value = 0; return 0;
    default: *g->value = 1; return 0;
    }
}

static int xe_query(struct drm_xe_device_query *q) {
    static uint8_t b[4096];
    memset(b, 0, sizeof b);
    uint32_t need = 0;
    switch (q->query) {
    case DRM_XE_DEVICE_QUERY_ENGINES: {
        struct drm_xe_query_engines *e = (void *)b;
        e->num_engines = 2;
        e->engines[0].instance.engine_class = DRM_XE_ENGINE_CLASS_RENDER;
        e->engines[1].instance.engine_class = DRM_XE_ENGINE_CLASS_COPY;
        need = sizeof *e + 2 * sizeof e->engines[0];
        break;
    }
    case DRM_XE_DEVICE_QUERY_MEM_REGIONS: {
        struct drm_xe_query_mem_regions *m = (void *)b;
        int lmem = (arg1 & 0xff00) == 0xe200 || (arg1 & 0xff00) == 0x5600;
        m->num_mem_regions = 1 + lmem;
        for (int i = 0; i <= lmem; i++) {
            m->mem_regions[i].mem_class = i ? DRM_XE_MEM_REGION_CLASS_VRAM : DRM_XE_MEM_REGION_CLASS_SYSMEM;
            m->mem_regions[i].instance = i;
            m->mem_regions[i].min_page_size = i ? 65536 : 4096;
            m->mem_regions[i].total_size = 12ull << 30;
            m->mem_regions[i].cpu_visible_size = i ? 12ull << 30 : 0;
        }
        need = sizeof *m + m->num_mem_regions * sizeof m->mem_regions[0];
        break;
    }
    case DRM_XE_DEVICE_QUERY_CONFIG: {
        struct drm_xe_query_config *c = (void *)b;
        c->num_params = 5;
        c->info[DRM_XE_QUERY_CONFIG_REV_AND_DEVICE_ID] = arg1 | (uint64_t)4 << 16;
        c->info[DRM_XE_QUERY_CONFIG_FLAGS] = (arg1 & 0xff00) == 0xe200;
        c->info[DRM_XE_QUERY_CONFIG_MIN_ALIGNMENT] = 65536;
        c->info[DRM_XE_QUERY_CONFIG_VA_BITS] = 48;
        c->info[DRM_XE_QUERY_CONFIG_MAX_EXEC_QUEUE_PRIORITY] = 2;
        need = sizeof *c + 5 * sizeof c->info[0];
        break;
    }
    case DRM_XE_DEVICE_QUERY_GT_LIST: {
        struct drm_xe_query_gt_list *g = (void *)b;
        g->num_gt = 1;
        g->gt_list[0].type = DRM_XE_QUERY_GT_TYPE_MAIN;
        g->gt_list[0].reference_clock = 19200000;
        g->gt_list[0].near_mem_regions = 2;
        g->gt_list[0].far_mem_regions = 1;
        g->gt_list[0].ip_ver_major = 20;
        need = sizeof *g + sizeof g->gt_list[0];
        break;
    }
    case DRM_XE_DEVICE_QUERY_GT_TOPOLOGY: {
        uint8_t *p = b;
        int all = slices * subslices;
        for (int k = 0; k < 3; k++) {
            struct drm_xe_query_topology_mask *t = (void *)p;
            t->gt_id = 0;
            t->type = k == 0                                                   ? DRM_XE_TOPO_DSS_GEOMETRY
                      : k == 1                                                 ? DRM_XE_TOPO_DSS_COMPUTE
                      : (arg1 & 0xff00) >= 0xe200 || (arg1 & 0xff00) == 0x6400 ? 5 /* SIMD16 EUs */
                                                                               : DRM_XE_TOPO_EU_PER_DSS;
            t->num_bytes = 8;
            if (k < 2)
                for (int s = 0; s < all; s++)
                    t->mask[s / 8] |= 1 << (s % 8);
            else
                t->mask[0] = (1 << eus) - 1;
            p += sizeof *t + 8;
        }
        need = p - b;
        break;
    }
    case DRM_XE_DEVICE_QUERY_HWCONFIG:
        need = 0;
        q->size = 0;
        return 0;
    default: errno = EINVAL; return -1;
    }
    if (q->size == 0) {
        q->size = need;
        return 0;
    }
    memcpy((void *)(uintptr_t)q->data, b, need);
    return 0;
}

// nouveau's object calls, whose headers are not in uapi: a 32-byte header and then what its type says.
struct nv_ioctl {
    uint8_t version, type, pad[4], owner, route;
    uint64_t token, object;
};
static int nouveau_nvif(uint8_t *p) {
    struct nv_ioctl *h = (void *)p;
    uint8_t *d = p + sizeof *h;
    if (h->type == 4) {  // MTHD: version, method, padding, data
        if (d[1] == 0) { // NV_DEVICE_V0_INFO
            struct {
                uint8_t version, platform;
                uint16_t chipset;
                uint8_t revision, family, pad[2];
                uint64_t ram_size, ram_user;
                char chip[16], name[64];
            } *i = (void *)(d + 8);
            i->platform = 3;
            i->chipset = arg1;
            i->ram_size = i->ram_user = 16ull << 30;
            snprintf(i->chip, 16, "NV%X", arg1);
            snprintf(i->name, 64, "stub NV%X", arg1);
        }
    } else if (h->type == 1) { // SCLASS: version, count, padding, then {oclass, minver, maxver}
        struct {
            int32_t oclass;
            int16_t min, max;
        } *o = (void *)(d + 8);
        static const struct {
            int chip;
            int cls[5];
        } of[] = {// m2mf, copy, 2d, 3d, compute
                  {0x120, {0xa140, 0xb0b5, 0x902d, 0xb197, 0xb1c0}}, {0x130, {0xa140, 0xc0b5, 0x902d, 0xc197, 0xc1c0}},
                  {0x140, {0xa140, 0xc3b5, 0x902d, 0xc397, 0xc3c0}}, {0x160, {0xa140, 0xc5b5, 0x902d, 0xc597, 0xc5c0}},
                  {0x170, {0xa140, 0xc7b5, 0x902d, 0xc797, 0xc7c0}}, {0x190, {0xa140, 0xc7b5, 0x902d, 0xc997, 0xc9c0}},
                  {0x1b0, {0xa140, 0xc9b5, 0x902d, 0xce97, 0xcec0}}};
        int k = 0;
        for (int i = 0; i < 7; i++)
            if ((int)(arg1 & ~0xfu) >= of[i].chip) k = i;
        if (d[1] == 0)
            d[1] = 5;
        else
            for (int i = 0; i < d[1]; i++) {
                o[i].oclass = i < 5 ? of[k].cls[i] : 0;
                o[i].min = o[i].max = -1;
            }
    }
    return 0;
}
static int nouveau_param(struct drm_nouveau_getparam *g) {
    switch (g->param) {
    case NOUVEAU_GETPARAM_CHIPSET_ID: g->value = arg1; return 0;
    case NOUVEAU_GETPARAM_PCI_VENDOR: g->value = 0x10de; return 0;
    case NOUVEAU_GETPARAM_PCI_DEVICE: g->value = arg2; return 0;
    case NOUVEAU_GETPARAM_BUS_TYPE: g->value = 2; return 0;
    case NOUVEAU_GETPARAM_FB_SIZE: g->value = 16ull << 30; return 0;
    case NOUVEAU_GETPARAM_AGP_SIZE: g->value = 1ull << 40; return 0;
    case NOUVEAU_GETPARAM_GRAPH_UNITS: g->value = 6 | 46 << 8; return 0;
    case NOUVEAU_GETPARAM_EXEC_PUSH_MAX: g->value = 256; return 0;
    case 18:
    case 19:
        g->value = 16ull << 30;
        if (g->param == 19) g->value = 1;
        return 0; // VRAM_BAR_SIZE, VRAM_USED
    default: g->value = 1; return 0;
    }
}

static int msm_param(struct drm_msm_param *g) {
    switch (g->param) {
    case MSM_PARAM_GPU_ID: g->value = arg2; return 0;
    case MSM_PARAM_CHIP_ID: g->value = arg1; return 0;
    case MSM_PARAM_GMEM_SIZE: g->value = 3 << 20; return 0;
    case MSM_PARAM_GMEM_BASE: g->value = 0x100000; return 0;
    case MSM_PARAM_NR_RINGS: g->value = 1; return 0;
    case MSM_PARAM_MAX_FREQ: g->value = 900000000; return 0;
    case MSM_PARAM_VA_START: g->value = 0x100000000ull; return 0;
    case MSM_PARAM_VA_SIZE: g->value = 0x100000000ull; return 0;
    case MSM_PARAM_HIGHEST_BANK_BIT: g->value = 16; return 0;
    case MSM_PARAM_UBWC_SWIZZLE: g->value = 6; return 0;
    case MSM_PARAM_MACROTILE_MODE: g->value = 1; return 0;
    case MSM_PARAM_PP_PGTABLE: g->value = 1; return 0;
    case MSM_PARAM_UCHE_TRAP_BASE: g->value = 0x1fffffffff000ull; return 0;
    default: g->value = 0; return 0;
    }
}

static int asahi_param(struct drm_asahi_get_params *g) {
    static struct drm_asahi_params_global p;
    memset(&p, 0, sizeof p);
    p.gpu_generation = arg1;
    p.gpu_variant = letter;
    p.gpu_revision = 0x11;
    p.chip_id = arg1 == 13 ? 0x8103 : 0x8112;
    p.num_dies = 1;
    p.num_clusters_total = 1;
    p.num_cores_per_cluster = 8;
    p.max_frequency_khz = 1278000;
    p.core_masks[0] = 0xff;
    p.vm_start = 0x4000;
    p.vm_end = 1ull << 39;
    p.vm_kernel_min_size = 0x2000000;
    p.max_commands_per_submission = 64;
    p.max_attachments = 16;
    p.command_timestamp_frequency_hz = 24000000;
    uint64_t n = g->size < sizeof p ? g->size : sizeof p;
    memcpy((void *)(uintptr_t)g->pointer, &p, n);
    g->size = n;
    return 0;
}

static int driver_ioctl(unsigned long nr, void *p) {
    if (is("i915")) switch (nr) {
        case DRM_I915_GETPARAM: return i915_param(p);
        case DRM_I915_QUERY: return i915_query(p);
        case DRM_I915_GEM_CREATE: {
            struct drm_i915_gem_create *c = p;
            c->handle = handle(c->size);
            return 0;
        }
        case DRM_I915_GEM_CREATE_EXT: {
            struct drm_i915_gem_create_ext *c = p;
            c->handle = handle(c->size);
            return 0;
        }
        case DRM_I915_GEM_MMAP_GTT: {
            struct drm_i915_gem_mmap_offset *c = p;
            c->offset = offset_of(c->handle);
            return 0;
        }
        case DRM_I915_GEM_USERPTR: {
            struct drm_i915_gem_userptr *c = p;
            c->handle = handle(c->user_size);
            return 0;
        }
        case DRM_I915_GEM_CONTEXT_CREATE: {
            struct drm_i915_gem_context_create *c = p;
            c->ctx_id = 1;
            return 0;
        }
        case DRM_I915_GEM_VM_CREATE: {
            struct drm_i915_gem_vm_control *c = p;
            c->vm_id = 1;
            return 0;
        }
        case DRM_I915_GEM_CONTEXT_GETPARAM: {
            struct drm_i915_gem_context_param *c = p;
            c->value = c->param == I915_CONTEXT_PARAM_GTT_SIZE ? 1ull << 48 : 0;
            return 0;
        }
        case DRM_I915_GEM_GET_APERTURE: {
            struct drm_i915_gem_get_aperture *c = p;
            c->aper_size = c->aper_available_size = 1ull << 48;
            return 0;
        }
        case DRM_I915_GEM_MMAP: {
            struct drm_i915_gem_mmap *c = p;
            c->addr_ptr = (uintptr_t)mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            return 0;
        }
        case DRM_I915_REG_READ: {
            struct drm_i915_reg_read *c = p;
            c->val = 1;
            return 0;
        }
        default: return 0;
        }
    if (is("xe")) switch (nr) {
        case DRM_XE_DEVICE_QUERY: return xe_query(p);
        case DRM_XE_GEM_CREATE: {
            struct drm_xe_gem_create *c = p;
            c->handle = handle(c->size);
            return 0;
        }
        case DRM_XE_GEM_MMAP_OFFSET: {
            struct drm_xe_gem_mmap_offset *c = p;
            c->offset = offset_of(c->handle);
            return 0;
        }
        case DRM_XE_VM_CREATE: {
            struct drm_xe_vm_create *c = p;
            c->vm_id = 1;
            return 0;
        }
        case DRM_XE_EXEC_QUEUE_CREATE: {
            struct drm_xe_exec_queue_create *c = p;
            c->exec_queue_id = 1;
            return 0;
        }
        default: return 0;
        }
    if (is("nouveau")) switch (nr) {
        case DRM_NOUVEAU_GETPARAM: return nouveau_param(p);
        case DRM_NOUVEAU_NVIF: return nouveau_nvif(p);
        case DRM_NOUVEAU_CHANNEL_ALLOC: {
            struct drm_nouveau_channel_alloc *c = p;
            c->channel = 1;
            c->pushbuf_domains = NOUVEAU_GEM_DOMAIN_VRAM;
            return 0;
        }
        case DRM_NOUVEAU_GEM_NEW: {
            struct drm_nouveau_gem_new *c = p;
            c->info.handle = handle(c->info.size);
            c->info.map_handle = offset_of(c->info.handle);
            c->info.offset = next_va;
            next_va += (c->info.size + 0xffff) & ~0xffffull;
            return 0;
        }
        case DRM_NOUVEAU_GEM_INFO: {
            struct drm_nouveau_gem_info *c = p;
            c->map_handle = offset_of(c->handle);
            c->size = sizes[c->handle & 0xffff];
            return 0;
        }
        default: return 0;
        }
    if (is("msm")) switch (nr) {
        case DRM_MSM_GET_PARAM: return msm_param(p);
        case DRM_MSM_GEM_NEW: {
            struct drm_msm_gem_new *c = p;
            c->handle = handle(c->size);
            return 0;
        }
        case DRM_MSM_GEM_INFO: {
            struct drm_msm_gem_info *c = p;
            if (c->info == MSM_INFO_GET_OFFSET) c->value = offset_of(c->handle);
            if (c->info == MSM_INFO_GET_IOVA) {
                c->value = next_va;
                next_va += 1 << 24;
            }
            return 0;
        }
        case DRM_MSM_SUBMITQUEUE_NEW: {
            struct drm_msm_submitqueue *c = p;
            c->id = 1;
            return 0;
        }
        case DRM_MSM_GEM_MADVISE: {
            struct drm_msm_gem_madvise *c = p;
            c->retained = 1;
            return 0;
        }
        default: return 0;
        }
    if (is("asahi")) switch (nr) {
        case DRM_ASAHI_GET_PARAMS: return asahi_param(p);
        case DRM_ASAHI_VM_CREATE: {
            struct drm_asahi_vm_create *c = p;
            c->vm_id = 1;
            return 0;
        }
        case DRM_ASAHI_QUEUE_CREATE: {
            struct drm_asahi_queue_create *c = p;
            c->queue_id = 1;
            return 0;
        }
        case DRM_ASAHI_GEM_CREATE: {
            struct drm_asahi_gem_create *c = p;
            c->handle = handle(c->size);
            return 0;
        }
        case DRM_ASAHI_GEM_MMAP_OFFSET: {
            struct drm_asahi_gem_mmap_offset *c = p;
            c->offset = offset_of(c->handle);
            return 0;
        }
        case DRM_ASAHI_GET_TIME: return 0;
        default: return 0;
        }
    errno = EINVAL;
    return -1;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list ap;
    va_start(ap, request);
    void *p = va_arg(ap, void *);
    va_end(ap);
    if (((request >> 8) & 0xff) != 'd' || !mine(fd)) return syscall(SYS_ioctl, fd, request, p);
    unsigned long nr = request & 0xff;
    if (nr >= DRM_COMMAND_BASE && nr < DRM_COMMAND_END) return driver_ioctl(nr - DRM_COMMAND_BASE, p);
    switch (request) {
    case DRM_IOCTL_GET_CAP: {
        struct drm_get_cap *c = p;
        c->value = c->capability == DRM_CAP_PRIME ? 3 : 1;
        return 0;
    }
    case DRM_IOCTL_SYNCOBJ_CREATE: {
        struct drm_syncobj_create *c = p;
        c->handle = next_handle++;
        return 0;
    }
    case DRM_IOCTL_SYNCOBJ_QUERY: {
        struct drm_syncobj_timeline_array *c = p;
        for (uint32_t i = 0; i < c->count_handles; i++)
            ((uint64_t *)(uintptr_t)c->points)[i] = ~0ull >> 1;
        return 0;
    }
    case DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD: {
        struct drm_syncobj_handle *c = p;
        c->fd = dup(fd);
        return 0;
    }
    case DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE: {
        struct drm_syncobj_handle *c = p;
        c->handle = next_handle++;
        return 0;
    }
    case DRM_IOCTL_PRIME_HANDLE_TO_FD: {
        struct drm_prime_handle *c = p;
        c->fd = dup(fd);
        return 0;
    }
    case DRM_IOCTL_PRIME_FD_TO_HANDLE: {
        struct drm_prime_handle *c = p;
        c->handle = next_handle++;
        return 0;
    }
    default: return 0;
    }
}

static void *map(void *addr, size_t length, int prot, int flags, int fd, off64_t offset) {
    if (fd > 2 && !(flags & MAP_ANONYMOUS) && mine(fd)) {
        flags =
            (flags & ~(MAP_SHARED | MAP_SHARED_VALIDATE | MAP_PRIVATE)) | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        fd = -1;
        offset = 0;
    }
    return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}
void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) {
    return map(addr, length, prot, flags, fd, offset);
}
void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset) {
    return map(addr, length, prot, flags, fd, offset);
}
